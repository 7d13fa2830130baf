"""What was spent of a budget in its present period, and what is left: from the ledger and the counters together.

While the counters are away what is reserved is not known, and what is left is what the ledger leaves.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter
from msgspec import Struct

from gateway.http.admin.access import Admin
from gateway.http.admin.budgets import READ
from gateway.http.admin.versions import Page, Size
from gateway.store.reading import current
from gateway.store.rule_values import budget_of
from gateway.store.spend import spent
from gateway.store.tables.rules import budgets
from policies.limits import Draw, Metric
from policies.money import usd_of
from policies.windows import FOREVER_MS, edges


class BalanceView(Struct, frozen=True, kw_only=True):
    """What one subject has spent and has left in the present period."""

    subject: str
    """Id of the principal, group, key or endpoint; empty for the deployment."""
    nano_usd: int
    """What may be spent, an increase in force included."""
    usd: str
    spent_nano_usd: int
    """Settled, from the ledger."""
    spent_usd: str
    reserved_nano_usd: int | None
    """Held for requests that run, and settled ones that the ledger does not have yet; null while Redis is away."""
    left_nano_usd: int
    left_usd: str
    period_start: datetime
    resets_at: datetime | None
    """End of the period; null for one that never ends."""


@get(
    "/budgets/{budget_id:uuid}/balance",
    opt=READ,
    tags=["Budgets"],
    summary="What was spent of a budget, and what is left",
)
async def balance(
    admin: NamedDependency[Admin],
    budget_id: FromPath[UUID],
    after: Annotated[str | None, QueryParameter(max_length=64, pattern=r"^[^\x00]*$")] = None,
    size: Size = 50,
    subject: Annotated[str | None, QueryParameter(max_length=64, pattern=r"^[^\x00]*$")] = None,
) -> Page[BalanceView]:
    """Of the present period, subject by subject: a default has one for each who has spent."""
    now = datetime.now(UTC)
    async with admin.reading() as connection:
        row = await current(connection, budgets, str(budget_id), "budget")
        budget = budget_of(row, now, [])
        period = edges(budget.period, time.time_ns() // 1_000_000)
        found = await spent(connection, budget, period, subject=subject, after=after, size=size + 1)
    named = {each.subject: each.nano_usd for each in found}
    only = budget.subject_id or subject or ("" if budget.scope == "deployment" else None)
    if only is not None:
        named.setdefault(only, 0)
    subjects = sorted(named)[:size]
    draws = [
        Draw(
            budget.id,
            budget.scope,
            each,
            "",
            "",
            Metric.MONEY,
            budget.period,
            budget.nano_usd,
            budget.mode,
        )
        for each in subjects
    ]
    levels = None if admin.levels is None else await admin.levels.read(draws)
    views = [
        _balance(budget.nano_usd, each, named[each], None if levels is None else levels[number].used, period)
        for number, each in enumerate(subjects)
    ]
    return Page(views, subjects[-1] if len(named) > size else None)


def _balance(
    amount: int, subject: str, settled: int, counted: int | None, period: tuple[int, int]
) -> BalanceView:
    left = max(0, amount - (settled if counted is None else max(settled, counted)))
    return BalanceView(
        subject=subject,
        nano_usd=amount,
        usd=usd_of(amount),
        spent_nano_usd=settled,
        spent_usd=usd_of(settled),
        reserved_nano_usd=None if counted is None else max(0, counted - settled),
        left_nano_usd=left,
        left_usd=usd_of(left),
        period_start=datetime.fromtimestamp(period[0] / 1000, UTC),
        resets_at=None if period[1] >= FOREVER_MS else datetime.fromtimestamp(period[1] / 1000, UTC),
    )
