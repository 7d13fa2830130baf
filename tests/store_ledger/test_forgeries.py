"""A superuser without the key changes the audit in a thousand ways, and is found in each."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.spool.records import Refusal
from gateway.store import audit, audit_check
from gateway.store.database import engine
from gateway.store.refusals import RefusalSeals
from tests.store_ledger.test_audit import KEY

if TYPE_CHECKING:
    from gateway.embedded.postgres import EmbeddedPostgres

SIZE = 12
SEALS = (4, 8, 12)
"""Entries that seal refusals, five each."""
FORGERIES = 1000


def refusal(number: int, **changes: Any) -> Refusal:
    values: dict[str, Any] = {
        "number": number,
        "at_ms": 1_800_000_000_000 + number,
        "span_ms": 0,
        "count": 1,
        "plane": "data",
        "code": "permission_denied",
        "limit_id": None,
        "principal_id": "u_1",
        "asked": "chat",
        "address": None,
    }
    return Refusal(**(values | changes))


@pytest.fixture
async def forger(postgres_server: EmbeddedPostgres, database_name: str) -> AsyncIterator[AsyncConnection]:
    """A superuser's connection to a chain of changes and seals, in a transaction that nobody keeps."""
    pool = engine(postgres_server.url("postgres", database_name), size=2, statement_seconds=120)
    seals, spool = RefusalSeals(pool, KEY), UUID(int=7)
    for number in range(1, SIZE + 1):
        if number in SEALS:
            first = number * 10
            await seals.seal({spool: [refusal(first + each, principal_id=f"u_{each}") for each in range(5)]})
            continue
        async with pool.begin() as connection:
            await audit.append(
                connection,
                key=KEY,
                actor=f"u_{number}",
                action="limit.update",
                object_kind="limit",
                object_id=f"l_{number}",
                before={"amount": number},
                after={"amount": number + 1},
                reason="more",
            )
    async with pool.connect() as connection:
        await connection.execute(
            text("ALTER TABLE gateway.audit_contents DROP CONSTRAINT fk_audit_contents_number")
        )
        yield connection
        await connection.rollback()
    await pool.dispose()


class Forger:
    """One forgery: what is done, and the first entry that is bad by it."""

    def __init__(self, connection: AsyncConnection, draw: random.Random) -> None:
        self.connection, self.draw = connection, draw
        self.number = draw.randrange(1, SIZE + 1)
        self.change = draw.choice([each for each in range(1, SIZE + 1) if each not in SEALS])
        self.seal = draw.choice(SEALS)

    async def run(self, statement: str, **given: Any) -> None:
        done = await self.connection.execute(text(statement), given)
        assert done.rowcount != 0, statement

    async def edit(self) -> int:
        field, new = self.draw.choice(
            [("actor", "u_99"), ("action", "limit.delete"), ("object_id", "l_99"), ("content", "00" * 32)]
        )
        await self.run(
            "UPDATE gateway.audit_entries SET body = (body::jsonb || jsonb_build_object(CAST(:field AS text), CAST(:new AS text)))::text"
            " WHERE number = :number",
            field=field, new=new, number=self.number,
        )  # fmt: skip
        return self.number

    async def space(self) -> int:
        await self.run("UPDATE gateway.audit_entries SET body = body || ' ' WHERE number = :n", n=self.number)
        return self.number

    async def digest(self) -> int:
        await self.run(
            "UPDATE gateway.audit_entries SET digest = sha256(digest) WHERE number = :n", n=self.number
        )
        return self.number

    async def rekeyed(self) -> int:
        """Everything from here on chained anew, with a key of the forger's own."""
        rows = await self.connection.execute(
            text("SELECT number, body, digest FROM gateway.audit_entries ORDER BY number")
        )
        previous = audit.GENESIS
        for number, body, digest in rows.all():
            if number >= self.number:
                body = body.replace("u_", "v_")
                digest = audit.chained(b"another key", previous, body)
                await self.run(
                    "UPDATE gateway.audit_entries SET body = :body, digest = :digest WHERE number = :n",
                    body=body, digest=digest, n=number,
                )  # fmt: skip
            previous = bytes(digest)
        return self.number

    async def delete(self) -> int:
        await self.run("DELETE FROM gateway.audit_entries WHERE number = :n", n=self.number)
        return self.number

    async def delete_and_close_the_gap(self) -> int:
        await self.delete()
        await self.connection.execute(
            text("UPDATE gateway.audit_entries SET number = -number WHERE number > :n"), {"n": self.number}
        )
        await self.connection.execute(
            text("UPDATE gateway.audit_entries SET number = -number - 1 WHERE number < 0")
        )
        return self.number

    async def truncate(self) -> int:
        await self.run("DELETE FROM gateway.audit_entries WHERE number >= :n", n=self.number)
        return self.number

    async def swap(self) -> int:
        first = min(self.number, SIZE - 1)
        other = self.draw.randrange(first + 1, SIZE + 1)
        for old, new in ((first, -1), (other, first), (-1, other)):
            await self.run(
                "UPDATE gateway.audit_entries SET number = :new WHERE number = :old", old=old, new=new
            )
        return first

    async def insert(self) -> int:
        await self.run("UPDATE gateway.audit_entries SET number = -number WHERE number >= :n", n=self.number)
        await self.run("UPDATE gateway.audit_entries SET number = 1 - number WHERE number < 0")
        await self.run(
            "INSERT INTO gateway.audit_entries (number, body, digest) SELECT :n, body, digest FROM gateway.audit_entries"
            " WHERE number <> :n ORDER BY number LIMIT 1",
            n=self.number,
        )
        # A copy of the first entry in the first place fits there: the one behind it does not.
        return max(self.number, 2)

    async def insert_outside(self) -> int:
        place = self.draw.choice([0, -5, SIZE + 1, SIZE + 40])
        await self.run(
            "INSERT INTO gateway.audit_entries (number, body, digest) SELECT :place, body, digest FROM gateway.audit_entries"
            " WHERE number = :n",
            n=self.number, place=place,
        )  # fmt: skip
        return 1 if place < 1 else SIZE + 1

    async def content(self) -> int:
        await self.run(
            "UPDATE gateway.audit_contents SET content = replace(content, 'amount', 'sum') WHERE number = :n",
            n=self.change,
        )
        return self.change

    async def content_moved(self) -> int:
        await self.run(
            "UPDATE gateway.audit_contents AS held SET content = other.content, salt = other.salt"
            " FROM gateway.audit_contents AS other WHERE held.number = :n AND other.number = :m",
            n=self.change, m=1 if self.change > 1 else 2,
        )  # fmt: skip
        return self.change

    async def salt(self) -> int:
        await self.run(
            "UPDATE gateway.audit_contents SET salt = sha256(salt) WHERE number = :n", n=self.change
        )
        return self.change

    async def shown(self) -> int:
        column = self.draw.choice(["actor", "action", "object_kind"])
        await self.connection.execute(
            text(f"ALTER TABLE gateway.audit_entries ALTER COLUMN {column} DROP EXPRESSION")
        )
        await self.run(f"UPDATE gateway.audit_entries SET {column} = 'x' WHERE number = :n", n=self.change)
        return self.change

    async def refusal_edited(self) -> int:
        await self.sealed("SET content = replace(content, 'permission_denied', 'not_found')")
        return self.seal

    async def refusal_rewritten(self) -> int:
        """With a digest that fits: the entry's does not."""
        content = '{"count":7}'
        await self.sealed(
            "SET content = :content, salt = '\\x00', digest = :digest",
            content=content, digest=audit.salted(b"\0", content),
        )  # fmt: skip
        return self.seal

    async def refusal_deleted(self) -> int:
        await self.run(
            "DELETE FROM gateway.audit_refusals WHERE seal::text = (SELECT object_id FROM gateway.audit_entries"
            " WHERE number = :n) AND position = :position",
            n=self.seal, position=self.draw.randrange(1, 6),
        )  # fmt: skip
        return self.seal

    async def refusal_added(self) -> int | None:
        known = self.draw.random() < 0.5
        await self.run(
            "INSERT INTO gateway.audit_refusals (seal, position, digest, salt, content) SELECT coalesce(CAST(:seal AS uuid), seal),"
            " position + 5, digest, salt, content FROM gateway.audit_refusals WHERE seal::text ="
            " (SELECT object_id FROM gateway.audit_entries WHERE number = :n) AND position = 1",
            n=self.seal, seal=None if known else str(uuid4()),
        )  # fmt: skip
        return self.seal if known else None

    async def refusals_moved(self) -> int:
        await self.sealed("SET seal = '00000000-0000-0000-0000-000000000001'")
        return self.seal

    async def sealed(self, change: str, **given: Any) -> None:
        await self.run(
            f"UPDATE gateway.audit_refusals {change} WHERE seal::text = (SELECT object_id FROM gateway.audit_entries"
            " WHERE number = :n) AND position = :position",
            n=self.seal, position=self.draw.randrange(1, 6), **given,
        )  # fmt: skip


WAYS: tuple[Callable[[Forger], Awaitable[int | None]], ...] = (
    Forger.edit, Forger.space, Forger.digest, Forger.rekeyed, Forger.delete, Forger.delete_and_close_the_gap,
    Forger.truncate, Forger.swap, Forger.insert, Forger.insert_outside, Forger.content, Forger.content_moved,
    Forger.salt, Forger.refusal_edited, Forger.refusal_rewritten, Forger.refusal_deleted, Forger.refusal_added,
    Forger.refusals_moved,
)  # fmt: skip


async def test_a_thousand_forgeries_are_all_found_and_the_first_bad_entry_named(
    forger: AsyncConnection,
) -> None:
    head = await audit.read_head(forger)
    honest = await audit_check.verify(forger, KEY, known=[head])
    assert (honest.entries, honest.refusals, honest.problem) == (SIZE, 15, None)
    seed = random.randrange(1 << 30)
    draw = random.Random(seed)
    for number in range(FORGERIES):
        # Changing a column's kind rewrites the table, which is slow: a few of these are enough.
        way = Forger.shown if number % 100 == 0 else draw.choice(WAYS)
        nested = await forger.begin_nested()
        first = await way(Forger(forger, draw))
        verdict = await audit_check.verify(forger, KEY, known=[head])
        assert verdict.problem is not None, (seed, number, way)
        assert verdict.bad == first, (seed, number, way, verdict)
        await nested.rollback()
    assert (await audit_check.verify(forger, KEY, known=[head])).problem is None
