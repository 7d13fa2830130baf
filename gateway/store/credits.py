"""Enter and read corrections of what was spent: a credit gives money back, a charge takes more.

An entry is only ever added, in one transaction with its audit. Of one request no more is given back than it cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import BadRequest, Conflict, NotFound
from gateway.store.changes import Change
from gateway.store.reading import Row
from gateway.store.tables.catalog import endpoints
from gateway.store.tables.credits import credits
from gateway.store.tables.identity import api_keys, groups, principals
from gateway.store.tables.ledger import requests
from policies.money import usd_of

KIND = "credit"


@dataclass(frozen=True, slots=True)
class OfPrincipal:
    """Whose spend is corrected, and in which sums it shows besides the principal's own."""

    principal_id: str
    key_id: str | None = None
    group_id: str | None = None
    endpoint_id: str | None = None
    at: datetime | None = None
    """The moment at which it counts; None for now."""


async def enter(change: Change, of: str | OfPrincipal, nano_usd: int, reason: str) -> Row:
    """Correct what a request (by its id) or a principal spent by so much; raises BadRequest or Conflict."""
    whose = (
        await _of_request(change, of, nano_usd) if isinstance(of, str) else await _of_principal(change, of)
    )
    values: dict[str, Any] = {
        "id": change.new_id(),
        "entered_at": change.at,
        "entered_by_id": change.actor.id,
        "entered_by": change.actor.name,
        "reason": reason,
        "nano_usd": nano_usd,
        **whose,
    }
    row: Row = dict(
        (await change.connection.execute(insert(credits).values(**values).returning(credits))).one()._mapping
    )
    shown = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in row.items()
        if name != "number"
    }
    await change.record(KIND, row["id"], "enter", shown)
    return row


async def read_credit(connection: AsyncConnection, entry_id: str) -> Row:
    """One entry; raises NotFound."""
    found = (await connection.execute(select(credits).where(credits.c.id == entry_id))).mappings().first()
    if found is None:
        raise NotFound(f"There is no credit with id {entry_id!r}.")
    return dict(found)


async def credits_page(
    connection: AsyncConnection, *conditions: Any, after: str | None, size: int
) -> tuple[list[Row], str | None]:
    """One page of entries in order of id, and the id to go on after; None on the last page."""
    where = list(conditions)
    if after is not None:
        where.append(credits.c.id > after)
    query = select(credits).where(*where).order_by(credits.c.id).limit(size + 1)
    listed: list[Row] = [dict(each) for each in (await connection.execute(query)).mappings()]
    return listed[:size], (str(listed[size - 1]["id"]) if len(listed) > size else None)


async def _of_request(change: Change, request_id: str, nano_usd: int) -> dict[str, Any]:
    of = requests.c
    row = (
        await change.connection.execute(
            select(
                of.admitted_at,
                of.principal_id,
                of.key_id,
                of.group_id,
                of.endpoint_id,
                of.entity_id,
                of.cost_nano_usd,
            ).where(of.request_id == request_id)
        )
    ).first()
    if row is None:
        raise Conflict(
            f"The ledger has no request {request_id!r}. One that has ended is there within a second; try again then.",
            code="request_not_in_ledger",
        )
    entered = await change.connection.scalar(
        select(func.coalesce(func.sum(credits.c.nano_usd), 0)).where(credits.c.request_id == request_id)
    )
    left = row.cost_nano_usd + int(entered or 0)
    if left + nano_usd < 0:
        raise BadRequest(
            f"The request cost {usd_of(row.cost_nano_usd)} dollars, of which {usd_of(left)} are left after earlier"
            f" entries; no more than that can be given back.",
            param="nano_usd",
            code="credit_exceeds_cost",
        )
    return {
        "request_id": request_id,
        "counts_at": row.admitted_at,
        "principal_id": row.principal_id,
        "key_id": row.key_id,
        "group_id": row.group_id,
        "endpoint_id": row.endpoint_id,
        "entity_id": row.entity_id,
    }


async def _of_principal(change: Change, of: OfPrincipal) -> dict[str, Any]:
    named = (
        (principals, of.principal_id, "principal"),
        (api_keys, of.key_id, "key"),
        (groups, of.group_id, "group"),
        (endpoints, of.endpoint_id, "endpoint"),
    )
    found: dict[str, Row] = {}
    for table, object_id, kind in named:
        if object_id is not None:
            there = await change.rows(table, table.c.id == object_id)
            if not there:
                raise BadRequest(f"There is no {kind} with id {object_id!r}.", param=f"{kind}_id")
            found[kind] = there[0]
    if of.key_id is not None and found["key"]["principal_id"] != of.principal_id:
        raise BadRequest("That key is another principal's.", param="key_id")
    if of.at is not None and of.at > change.at:
        raise BadRequest("at lies in the future; what will be spent cannot be corrected yet.", param="at")
    return {
        "counts_at": of.at or change.at,
        "principal_id": of.principal_id,
        "key_id": of.key_id,
        "group_id": of.group_id,
        "endpoint_id": of.endpoint_id,
    }
