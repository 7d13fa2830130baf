"""The configuration as it was: at a change number, or at a moment.

Versions are closed and never edited, so what is read back for a number that has passed is the same for ever.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Table, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import BadRequest, NotFound
from gateway.store.catalog import IN_SNAPSHOT
from gateway.store.reading import Row
from gateway.store.snapshot import Built, ConfigurationRows, build
from gateway.store.tables import catalog, identity, providers, rules, throughput
from gateway.store.tables.versioned import configuration_change
from policies.catalog import Snapshot

_KEPT = 4
_OWNERS = (catalog, identity, providers, rules, throughput)
TABLES_IN_SNAPSHOT: dict[str, Table] = {
    name: next(getattr(each, name) for each in _OWNERS if hasattr(each, name)) for name in IN_SNAPSHOT
}
"""What a snapshot is made of, for SQLAlchemy."""


@dataclass(slots=True)
class History:
    """Builds past snapshots, and keeps the few that were asked for last."""

    _rows: OrderedDict[int, ConfigurationRows] = field(default_factory=OrderedDict[int, ConfigurationRows])
    _built: dict[int, tuple[datetime, Built]] = field(default_factory=dict[int, tuple[datetime, Built]])

    async def at(self, connection: AsyncConnection, moment: datetime) -> Snapshot:
        """The configuration that held at a moment; raises NotFound before the first one."""
        changes = configuration_change.c
        now: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
        if moment > now:
            raise BadRequest(
                f"at: {moment.isoformat()} is still to come; give a moment that has passed.", param="at"
            )
        number = (
            await connection.execute(select(func.max(changes.number)).where(changes.changed_at <= moment))
        ).scalar_one()
        if number is None:
            first = (await connection.execute(select(func.min(changes.changed_at)))).scalar_one()
            since = "there is none yet" if first is None else f"the first is of {first.isoformat()}"
            raise NotFound(f"There was no configuration at {moment.isoformat()}: {since}.")
        return await self.of(connection, int(number), moment)

    async def of(self, connection: AsyncConnection, number: int, moment: datetime) -> Snapshot:
        """The configuration of a change number; `moment` picks the prices and increases that were in force."""
        known = self._built.get(number)
        if known is not None:
            since, built = known
            if since <= moment and (built.stale_at is None or moment < built.stale_at):
                return built.snapshot
        loaded = self._rows.get(number)
        if loaded is None:
            loaded = ConfigurationRows(
                version=number,
                **{
                    name: await rows_of(connection, table, number)
                    for name, table in TABLES_IN_SNAPSHOT.items()
                },
            )
            self._rows[number] = loaded
            if len(self._rows) > _KEPT:
                gone, _ = self._rows.popitem(last=False)
                self._built.pop(gone, None)
        built = await asyncio.to_thread(build, loaded, moment)
        self._built[number] = moment, built
        return built.snapshot


async def rows_of(connection: AsyncConnection, table: Table, number: int, *conditions: Any) -> list[Row]:
    """The versions that held under a change number, in order of id."""
    held = (table.c.from_change <= number, or_(table.c.to_change.is_(None), table.c.to_change > number))
    found = await connection.execute(select(table).where(*held, *conditions).order_by(table.c.id))
    return [dict(each._mapping) for each in found]
