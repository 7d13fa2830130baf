"""What answered for an endpoint before, and going back to it.

A version of the configuration is what stood when it was current: entities with their split, fallbacks, rules and ids,
so that their prices are theirs again. A credential comes back only with the very address that it was given for, and
only if it is still there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import BadRequest, NotFound
from gateway.store.changes import Change
from gateway.store.endpoints import EntitySpec, addresses_of, update_endpoint
from gateway.store.providers import require_fitting
from gateway.store.reading import Row
from gateway.store.tables.catalog import endpoints, served_entities


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an endpoint's configuration."""

    endpoint: Row
    """The endpoint's row when it began."""
    entities: tuple[Row, ...]

    @property
    def number(self) -> int:
        """What it is called by."""
        return self.endpoint["config_version"]


async def versions(connection: AsyncConnection, endpoint_id: str) -> list[Version]:
    """Every version of an endpoint's configuration, the newest first."""
    of_endpoint = select(endpoints).where(endpoints.c.id == endpoint_id).order_by(endpoints.c.from_change)
    begun: dict[int, Row] = {}
    for row in (await connection.execute(of_endpoint)).mappings():
        begun.setdefault(row["config_version"], dict(row))
    numbers = sorted(begun, reverse=True)
    entities = [
        dict(row)
        for row in (
            await connection.execute(
                select(served_entities)
                .where(served_entities.c.endpoint_id == endpoint_id)
                .order_by(served_entities.c.id)
            )
        ).mappings()
    ]
    return [Version(begun[number], _at(entities, begun[number]["from_change"])) for number in numbers]


async def roll_back(change: Change, before: Row, number: int) -> Row:
    """Make what answered in that version answer again, as a new version; raises NotFound for one that never was."""
    if number == before["config_version"]:
        raise BadRequest(f"Version {number} is the present one.", param="config_version")
    found = next(
        (each for each in await versions(change.connection, before["id"]) if each.number == number), None
    )
    if found is None:
        raise NotFound(f"Endpoint {before['name']!r} has had no configuration version {number}.")
    now = await change.rows(served_entities, served_entities.c.endpoint_id == before["id"])
    specs = [_spec(row, now, await _credential(change, row)) for row in found.entities]
    return await update_endpoint(change, before, {}, specs)


async def _credential(change: Change, row: Row) -> str | None:
    """The credential that it was called with, if that is still there and still for its address."""
    if row["credential_id"] is None:
        return None
    try:
        await require_fitting(change, row)
    except BadRequest:
        return None
    return row["credential_id"]


def _spec(row: Row, now: Sequence[Row], credential_id: str | None) -> EntitySpec:
    same = next((each for each in now if each["id"] == row["id"]), None)
    kept = same is not None and addresses_of(same) == addresses_of(row)
    return EntitySpec(
        name=row["name"],
        kind=row["kind"],
        provider=row["provider"],
        model=row["model"],
        base_url=row["base_url"],
        traffic_percent=row["traffic_percent"],
        fallback_position=row["fallback_position"],
        rules=row["settings"].get("rules", {}),
        options=row["settings"].get("options", {}),
        shown=row["settings"].get("shown", {}),
        # What is in use holds, rotated as it may be since; else the one that stood with this address then.
        credential_id=None if kept else credential_id,
        id=row["id"],
    )


def _at(entities: Sequence[Row], number: int) -> tuple[Row, ...]:
    return tuple(
        each
        for each in entities
        if each["from_change"] <= number and (each["to_change"] is None or each["to_change"] > number)
    )
