"""Change how much money may be spent: budgets, and what is temporarily added to one.

A budget is read back as policies read it before it is written; whose it is, what it counts and its period stay as
they were made, so that what was spent never moves from one budget to another.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from gateway.errors import BadRequest, Conflict
from gateway.store.changes import Change
from gateway.store.reading import Row
from gateway.store.rule_values import budget_of
from gateway.store.rules import check_span, of_line
from gateway.store.tables.rules import budgets
from policies.limits import LARGEST

_UNSET: dict[str, Any] = {
    "mode": "share", "name": "", "subject_id": None, "endpoint_id": None, "time_zone": "UTC",
    "thresholds_percent": [], "increase_nano_usd": 0, "increase_until": None,
}  # fmt: skip


async def create_budget(change: Change, values: Mapping[str, Any]) -> Row:
    """Add a budget; what was spent in its period before counts as well."""
    await _check(change, {"id": change.new_id(), **_UNSET, **values})
    return await change.add(budgets, "budget", await of_line(change, values))


async def update_budget(change: Change, before: Row, values: Mapping[str, Any]) -> Row:
    """Change a budget's amount, thresholds, mode, name, or whether it is in force."""
    await _check(change, {**before, **values})
    return await change.revise(budgets, "budget", before, **values)


async def delete_budget(change: Change, before: Row) -> None:
    """Delete a budget; the ledger keeps what was spent."""
    await change.remove(budgets, "budget", before)


async def increase_budget(change: Change, before: Row, nano_usd: int, until: datetime) -> Row:
    """Add to the amount until a moment; raises Conflict while an earlier increase is in force."""
    if until <= change.at:
        raise BadRequest("until lies in the past; an increase ends later than now.", param="until")
    if before["increase_until"] is not None and before["increase_until"] > change.at:
        raise Conflict("An increase is in force already: end it first, then enter the one that is to hold.")
    if before["amount_nano_usd"] + nano_usd > LARGEST:
        raise BadRequest(f"Amount and increase together take up to {LARGEST} nano-dollars.", param="nano_usd")
    return await change.revise(
        budgets, "budget", before, action="increase", increase_nano_usd=nano_usd, increase_until=until
    )


async def end_increase(change: Change, before: Row) -> Row:
    """End the present increase before its time; raises Conflict where none is in force."""
    if before["increase_until"] is None or before["increase_until"] <= change.at:
        raise Conflict("No increase is in force.")
    return await change.revise(
        budgets, "budget", before, action="end_increase", increase_nano_usd=0, increase_until=None
    )


async def _check(change: Change, row: Row) -> None:
    try:
        budget_of(row, change.at, [])
    except (ValueError, TypeError) as error:
        raise BadRequest(f"The budget cannot be decided with: {error}.") from error
    await check_span(change, row, "budget")
