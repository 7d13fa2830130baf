"""Change what the engine can do and what of it is provisioned.

Together, provisions are never more than the pool: changes come one after the other, and each sees what is booked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.errors import BadRequest, Conflict
from gateway.store.changes import Change
from gateway.store.reading import Row
from gateway.store.rule_values import pool_of
from gateway.store.rules import check_span
from gateway.store.tables.throughput import throughput_pools, throughput_provisions
from policies.throughput import booking

_POOL, _PROVISION = "throughput_pool", "throughput_provision"


class Overbooked(Conflict):
    """More would be provisioned than the engine can do; the message has the arithmetic."""

    code = "throughput_overbooked"


async def create_pool(change: Change, values: Mapping[str, Any]) -> Row:
    """Say what the engine can do; raises Conflict where that is said already."""
    found = await change.rows(throughput_pools)
    if found:
        raise Conflict(
            f"There is a throughput pool already ({found[0]['name']!r}): all models of the local engine share it."
            " Change that one."
        )
    return await change.add(throughput_pools, _POOL, values)


async def update_pool(change: Change, before: Row, values: Mapping[str, Any], *, checked: bool = True) -> Row:
    """Change what the engine can do; raises Overbooked where provisions would no longer fit."""
    if checked:
        await _check(change, {**before, **values}, None, 0)
    return await change.revise(throughput_pools, _POOL, before, **values)


async def delete_pool(change: Change, before: Row) -> None:
    """Delete the pool; raises Conflict while something of it is provisioned."""
    booked = await change.rows(throughput_provisions)
    if booked:
        raise Conflict(
            f"{len(booked)} throughput provision(s) are booked on the pool, {booked[0]['name']!r} among them;"
            " delete them first."
        )
    await change.remove(throughput_pools, _POOL, before)


async def create_provision(change: Change, values: Mapping[str, Any], *, checked: bool = True) -> Row:
    """Provision throughput; raises Overbooked where the pool has not so much left."""
    await check_span(change, values, "throughput provision")
    there = await change.rows(
        throughput_provisions, throughput_provisions.c.subject_id == values["subject_id"]
    )
    if there:
        raise Conflict(
            f"This {values['scope']} has a throughput provision already ({there[0]['name']!r}); change that one."
        )
    pool = await _pool(change)
    if checked:
        await _check(change, pool, None, values["units"])
    return await change.add(throughput_provisions, _PROVISION, values)


async def update_provision(
    change: Change, before: Row, values: Mapping[str, Any], *, checked: bool = True
) -> Row:
    """Change a provision's units, target or name; whose it is stays. Raises Overbooked likewise."""
    if checked:
        await _check(change, await _pool(change), before["id"], values.get("units", before["units"]))
    return await change.revise(throughput_provisions, _PROVISION, before, **values)


async def check_bookings(change: Change) -> None:
    """Raise Overbooked unless what is provisioned fits; for changes of several at once, which fit only together."""
    for pool in await change.rows(throughput_pools):
        await _check(change, pool, None, 0)


async def delete_provision(change: Change, before: Row) -> None:
    """Give the throughput back to everybody."""
    await change.remove(throughput_provisions, _PROVISION, before)


async def delete_provisions_of(change: Change, subject_id: str) -> None:
    """Those of an endpoint or a group that is deleted."""
    for row in await change.rows(throughput_provisions, throughput_provisions.c.subject_id == subject_id):
        await change.remove(throughput_provisions, _PROVISION, row)


async def _pool(change: Change) -> Row:
    found = await change.rows(throughput_pools)
    if not found:
        raise BadRequest(
            "There is no throughput pool: say first what the engine can do (POST /admin/v1/throughput-pools)."
        )
    return found[0]


async def _check(change: Change, pool_row: Row, but: str | None, units: int) -> None:
    pool = pool_of(pool_row)
    others = [
        row["units"] * pool.unit_tokens_per_second
        for row in await change.rows(throughput_provisions)
        if row["id"] != but
    ]
    found = booking(pool, others, units * pool.unit_tokens_per_second)
    if found is not None:
        raise Overbooked(found.message, param="units")
