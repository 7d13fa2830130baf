"""The one way to change the configuration: a numbered transaction that versions, audits and announces itself.

Changes come strictly one after the other, so the checks made inside one hold when it commits; a change that fails
leaves nothing, its audit entries included. What a declarative file manages, only a change on that file's behalf may
touch.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Table, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.errors import Conflict
from gateway.ids import RequestIds
from gateway.ids import text as id_text
from gateway.store import audit
from gateway.store.catalog import CHANNEL
from gateway.store.once import Answer, Claim, keep, require_new, turn_away
from gateway.store.reading import Row, current, rows, translated
from gateway.store.tables.versioned import configuration_change

_LOCK = 0x5742_0010
_UNSHOWN = frozenset(
    {"digest", "pepper_version", "secret_sealed", "from_change", "to_change", "valid_from", "valid_to"}
)
_NEVER_DECLARED = frozenset(
    {"tokens_not_before", "increase_nano_usd", "increase_until", "revoked_at", "secret_sealed"}
)
"""What no file speaks of: ending tokens and keys, helping out for a while, and secrets stay possible at once."""


class ManagedByFile(Conflict):
    """The object belongs to a declarative file, and this change is not that file's."""

    code = "managed_by_file"

    def __init__(self, kind: str, row: Row) -> None:
        named = f" {row['name']!r}" if row.get("name") else ""
        file = row["managed_by"]
        super().__init__(
            f"This {kind.replace('_', ' ')}{named} is managed by the file {file!r} and is read-only elsewhere;"
            f" change the file, then run `weighbridge apply -f {file}`."
        )


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change, as the audit names it."""

    id: str | None
    """Principal's id; None where the deployment itself acts, on its first start."""
    name: str


@dataclass(slots=True)
class Change:
    """One change under way; every method ends in a version written and an audit entry beside it."""

    connection: AsyncConnection
    number: int
    at: datetime
    actor: Actor
    reason: str | None
    file: str | None
    """The declarative file on whose behalf it is made: it owns what the change adds or revises."""
    _chain_key: bytes
    _ids: RequestIds
    answer: Answer | None = None
    """What is answered to a change that came with a claim; kept with it."""
    _touched: list[str] = field(default_factory=list[str])

    @property
    def touched(self) -> list[str]:
        """What has changed so far."""
        return self._touched

    def new_id(self) -> str:
        """A fresh UUIDv7."""
        return id_text(self._ids.make())

    async def add(self, table: Table, kind: str, values: Row, *, action: str = "create") -> Row:
        """Add an object; answers its row."""
        row = {
            "id": self.new_id(),
            "managed_by": self.file,
            **values,
            "from_change": self.number,
            "valid_from": self.at,
        }
        return await self._write(table, kind, None, row, action)

    async def revise(
        self, table: Table, kind: str, before: Row, /, *, action: str = "update", **values: Any
    ) -> Row:
        """Close a current version and add the next with some values changed; nothing happens where none differs."""
        if self.file is not None and not values.keys() & _NEVER_DECLARED:
            values = {"managed_by": self.file, **values}
        changed = {name for name, value in values.items() if before[name] != value}
        if not changed:
            return before
        if not changed <= _NEVER_DECLARED:
            self.require_own(kind, before)
        after = {**before, **values, "from_change": self.number, "valid_from": self.at}
        after.pop("to_change", None)
        after.pop("valid_to", None)
        await self._close(table, before)
        return await self._write(table, kind, before, after, action)

    async def renew(self, table: Table, before: Row) -> Row:
        """Give an object a new version because something that belongs to it changed; that is what is audited."""
        if before["from_change"] == self.number:
            return before
        self.require_own("object", before)
        after = {name: value for name, value in before.items() if name not in ("to_change", "valid_to")}
        await self._close(table, before)
        return await self._insert(table, {**after, "from_change": self.number, "valid_from": self.at})

    async def remove(self, table: Table, kind: str, before: Row, *, action: str = "delete") -> None:
        """Close an object's current version for good."""
        self.require_own(kind, before)
        await self._close(table, before)
        self._touched.append(f"{kind}:{before['id']}")
        await self._audit(action, kind, before, None)

    def require_own(self, kind: str, row: Row) -> None:
        """Raise ManagedByFile where the object belongs to a file and this change is not that file's."""
        if row["managed_by"] is not None and row["managed_by"] != self.file:
            raise ManagedByFile(kind, row)

    async def record(self, kind: str, object_id: str, action: str, content: dict[str, Any]) -> None:
        """Audit something that is no object of the configuration, beside what the change does."""
        await audit.append(
            self.connection,
            key=self._chain_key,
            actor=self._actor,
            action=f"{kind}.{action}",
            object_kind=kind,
            object_id=object_id,
            after=content,
            reason=self.reason,
        )

    @property
    def _actor(self) -> str:
        return self.actor.name if self.actor.id is None else f"{self.actor.name} ({self.actor.id})"

    async def current(self, table: Table, object_id: str, kind: str) -> Row:
        """The object's current version; raises NotFound."""
        return await current(self.connection, table, object_id, kind)

    async def rows(self, table: Table, *conditions: Any) -> list[Row]:
        """Current versions that meet the conditions, in order of id."""
        return await rows(self.connection, table, *conditions)

    async def _write(self, table: Table, kind: str, before: Row | None, row: Row, action: str) -> Row:
        after = await self._insert(table, row)
        self._touched.append(f"{kind}:{after['id']}")
        await self._audit(action, kind, before, after)
        return after

    async def _insert(self, table: Table, row: Row) -> Row:
        return dict(
            (await self.connection.execute(insert(table).values(**row).returning(table))).one()._mapping
        )

    async def _close(self, table: Table, before: Row) -> None:
        ended = (
            update(table)
            .where(
                table.c.id == before["id"],
                table.c.from_change == before["from_change"],
                table.c.to_change.is_(None),
            )
            .values(to_change=self.number, valid_to=self.at)
        )
        if (await self.connection.execute(ended)).rowcount != 1:
            raise Conflict("It was changed meanwhile; read it again, then repeat the change.")

    async def _audit(self, action: str, kind: str, before: Row | None, after: Row | None) -> None:
        shown = after if after is not None else before
        assert shown is not None
        await audit.append(
            self.connection,
            key=self._chain_key,
            actor=self._actor,
            action=f"{kind}.{action}",
            object_kind=kind,
            object_id=str(shown["id"]),
            before=None if before is None else audited(before),
            after=None if after is None else audited(after),
            reason=self.reason,
        )


@dataclass(frozen=True, slots=True)
class Configuration:
    """The configuration in PostgreSQL: read through `reading`, changed through `change`, nothing else."""

    engine: AsyncEngine
    chain_key: bytes = field(repr=False)
    ids: RequestIds = field(default_factory=RequestIds)

    @asynccontextmanager
    async def change(
        self,
        actor: Actor,
        reason: str | None = None,
        *,
        file: str | None = None,
        claim: Claim | None = None,
    ) -> AsyncGenerator[Change]:
        """One transaction on the configuration; it commits when the block ends without an exception.

        With a `claim` it is made once: raises Replayed where it was made before, IdempotencyConflict while it is made.
        """
        with translated():
            async with self.engine.begin() as connection:
                if claim is not None:
                    # Before the wait for other changes: the first of two must not answer for the second.
                    await turn_away(connection, claim)
                await connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
                if claim is not None:
                    await require_new(connection, claim)
                # A clock that was set back must not order changes differently than they were made.
                number, at = (
                    await connection.execute(
                        select(
                            func.coalesce(func.max(configuration_change.c.number), 0) + 1,
                            func.greatest(
                                func.clock_timestamp(),
                                func.max(configuration_change.c.changed_at)
                                + text("interval '1 microsecond'"),
                            ),
                        )
                    )
                ).one()
                change = Change(connection, number, at, actor, reason, file, self.chain_key, self.ids)
                yield change
                if change.touched:
                    await connection.execute(
                        insert(configuration_change).values(
                            number=number, changed_at=at, touched=change.touched
                        )
                    )
                    await connection.execute(text(f"SELECT pg_notify('{CHANNEL}', '')"))
                if claim is not None and change.answer is not None:
                    await keep(connection, claim, change.answer)

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[AsyncConnection]:
        """A transaction that reads one moment of the configuration."""
        with translated():
            async with self.engine.connect() as connection:
                await connection.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True
                )
                yield connection


def audited(row: Row) -> dict[str, Any]:
    """A row as the audit shows it: no digest, no secret, nothing of the versioning, and only JSON's own kinds of values."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in row.items()
        if name not in _UNSHOWN
    }
