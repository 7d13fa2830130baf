"""Budgets: how much money may be spent, by whom, in which period; and what is left of it.

Amounts are integer nano-dollars (1e-9 USD); a decimal amount in dollars is taken as well, and both are answered.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from litestar import Controller, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import UNSET, Meta, Struct, UnsetType
from sqlalchemy import select

from gateway.errors import BadRequest
from gateway.http.admin.access import Admin
from gateway.http.admin.amounts import NanoUsd, Usd, amount_of
from gateway.http.admin.limits import LimitName
from gateway.http.admin.versions import (
    After,
    IfMatch,
    Moment,
    Page,
    Size,
    optional_id,
    require_match,
    set_fields,
    versioned,
)
from gateway.store.budgets import create_budget, delete_budget, end_increase, increase_budget, update_budget
from gateway.store.reading import Row, current, page
from gateway.store.snapshot import budget_of
from gateway.store.spend import spent
from gateway.store.tables.rules import budgets
from policies.administration import Permission
from policies.limits import Draw, Metric
from policies.money import usd_of
from policies.windows import FOREVER_MS, edges

Scope = Literal[
    "user", "user_default", "group", "group_default", "service_principal", "key", "endpoint", "deployment"
]
Period = Literal["day", "week", "month", "once"]
ModeName = Literal["strict", "share", "observe"]
Percent = Annotated[int, Meta(ge=1, le=100)]
Thresholds = Annotated[
    list[Percent],
    Meta(
        max_length=20,
        description="Percentages of the amount at which an event is raised, ascending.",
        examples=[[50, 80, 100]],
    ),
]
Zone = Annotated[
    str,
    Meta(
        max_length=64,
        pattern=r"^[A-Za-z0-9_+/-]+$",
        description="IANA zone in which periods begin.",
        examples=["Europe/Berlin"],
    ),
]
READ = {"permission": Permission.BUDGETS_READ}
WRITE = {"permission": Permission.BUDGETS_WRITE}


class IncreaseView(Struct, frozen=True, kw_only=True):
    """Money added to a budget for a while."""

    nano_usd: int
    usd: str
    entered_at: datetime
    until: datetime
    """When it was to end."""
    ended_at: datetime | None
    """When it was ended before that; null otherwise."""
    in_force: bool


class BudgetView(Struct, frozen=True, kw_only=True):
    """A budget."""

    id: str
    name: str
    scope: str
    subject_id: str | None
    endpoint_id: str | None
    period: str
    time_zone: str
    nano_usd: int
    usd: str
    increase_nano_usd: int
    """What is added at present; 0 for nothing."""
    increase_until: datetime | None
    thresholds_percent: list[int]
    mode: str
    enabled: bool
    managed_by: str | None
    updated_at: datetime


class NewBudget(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A budget to create; the amount either as `nano_usd` or as `usd`."""

    name: LimitName = ""
    scope: Scope
    subject_id: UUID | None = None
    """The user, group, service principal, key or endpoint; left out, an endpoint or key budget counts each apart."""
    endpoint_id: UUID | None = None
    """Counts only what is spent on this endpoint; left out, what is spent on all together."""
    period: Period
    time_zone: Zone = "UTC"
    nano_usd: NanoUsd | None = None
    usd: Usd | None = None
    thresholds_percent: Thresholds = []
    mode: ModeName = "share"
    """While Redis is away: `strict` refuses, `share` divides what was left among the workers. `observe` never refuses."""
    enabled: bool = True


class BudgetChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to change of a budget; what is left out stays."""

    name: LimitName | UnsetType = UNSET
    nano_usd: NanoUsd | UnsetType = UNSET
    usd: Usd | UnsetType = UNSET
    thresholds_percent: Thresholds | UnsetType = UNSET
    mode: ModeName | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET


class NewIncrease(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to add for a while; the amount either as `nano_usd` or as `usd`."""

    nano_usd: NanoUsd | None = None
    usd: Usd | None = None
    until: Moment


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


class Budgets(Controller):
    """Budgets."""

    path = "/budgets"
    tags = ("Budgets",)

    @get("/", opt=READ, summary="List budgets, in order of id")
    async def list_all(
        self,
        admin: NamedDependency[Admin],
        after: After = None,
        size: Size = 50,
        of_scope: Annotated[Scope | None, QueryParameter(name="scope")] = None,
        subject_id: FromQuery[UUID | None] = None,
        endpoint_id: FromQuery[UUID | None] = None,
    ) -> Page[BudgetView]:
        """`scope`, `subject_id` and `endpoint_id` narrow the list."""
        conditions: list[Any] = []
        if of_scope is not None:
            conditions.append(budgets.c.scope == of_scope)
        if subject_id is not None:
            conditions.append(budgets.c.subject_id == str(subject_id))
        if endpoint_id is not None:
            conditions.append(budgets.c.endpoint_id == str(endpoint_id))
        async with admin.reading() as connection:
            found, following = await page(
                connection, budgets, *conditions, after=optional_id(after), size=size
            )
        return Page([_view(row) for row in found], following)

    @post("/", opt=WRITE, summary="Create a budget")
    async def create(self, admin: NamedDependency[Admin], data: JSONBody[NewBudget]) -> Response[BudgetView]:
        """In force on every worker within a second; what was spent earlier in its period is counted shortly after."""
        values = set_fields(data)
        amount = amount_of(values.pop("nano_usd"), values.pop("usd"))
        if amount is None:
            raise BadRequest("Give the amount, as nano_usd or as usd.", param="nano_usd")
        values |= {
            "amount_nano_usd": amount,
            "subject_id": optional_id(values["subject_id"]),
            "endpoint_id": optional_id(values["endpoint_id"]),
        }
        async with admin.change() as change:
            row = await create_budget(change, values)
        return versioned(row, _view(row), status_code=201)

    @get("/{budget_id:uuid}", opt=READ, summary="Read a budget")
    async def read(self, admin: NamedDependency[Admin], budget_id: FromPath[UUID]) -> Response[BudgetView]:
        """Answers its version as `ETag`."""
        async with admin.reading() as connection:
            row = await current(connection, budgets, str(budget_id), "budget")
        return versioned(row, _view(row))

    @patch("/{budget_id:uuid}", opt=WRITE, summary="Change a budget")
    async def update(
        self,
        admin: NamedDependency[Admin],
        budget_id: FromPath[UUID],
        data: JSONBody[BudgetChange],
        if_match: IfMatch = None,
    ) -> Response[BudgetView]:
        """What was spent stays spent; a threshold that was passed in this period raises no second event."""
        values = set_fields(data)
        amount = amount_of(values.pop("nano_usd", None), values.pop("usd", None))
        if amount is not None:
            values["amount_nano_usd"] = amount
        async with admin.change() as change:
            before = await change.current(budgets, str(budget_id), "budget")
            require_match(before, if_match)
            row = await update_budget(change, before, values)
        return versioned(row, _view(row))

    @delete("/{budget_id:uuid}", opt=WRITE, summary="Delete a budget")
    async def remove(
        self, admin: NamedDependency[Admin], budget_id: FromPath[UUID], if_match: IfMatch = None
    ) -> None:
        """Nothing is refused for it any more within a second."""
        async with admin.change() as change:
            before = await change.current(budgets, str(budget_id), "budget")
            require_match(before, if_match)
            await delete_budget(change, before)

    @get("/{budget_id:uuid}/increases", opt=READ, summary="List a budget's increases, newest first")
    async def increases(self, admin: NamedDependency[Admin], budget_id: FromPath[UUID]) -> Page[IncreaseView]:
        """Past ones included."""
        async with admin.reading() as connection:
            await current(connection, budgets, str(budget_id), "budget")
            versions = (
                await connection.execute(
                    select(budgets).where(budgets.c.id == str(budget_id)).order_by(budgets.c.from_change)
                )
            ).mappings()
        return Page(_increases([dict(row) for row in versions], datetime.now(UTC)))

    @post("/{budget_id:uuid}/increases", opt=WRITE, summary="Add to a budget for a while")
    async def increase(
        self,
        admin: NamedDependency[Admin],
        budget_id: FromPath[UUID],
        data: JSONBody[NewIncrease],
        if_match: IfMatch = None,
    ) -> Response[BudgetView]:
        """In force on every worker within a second, and ends by itself; one at a time."""
        amount = amount_of(data.nano_usd, data.usd)
        if not amount:
            raise BadRequest("Give what to add, as nano_usd or as usd.", param="nano_usd")
        async with admin.change() as change:
            before = await change.current(budgets, str(budget_id), "budget")
            require_match(before, if_match)
            row = await increase_budget(change, before, amount, data.until)
        return versioned(row, _view(row), status_code=201)

    @delete("/{budget_id:uuid}/increases", opt=WRITE, summary="End a budget's present increase")
    async def no_increase(
        self, admin: NamedDependency[Admin], budget_id: FromPath[UUID], if_match: IfMatch = None
    ) -> None:
        """What was spent of it stays spent."""
        async with admin.change() as change:
            before = await change.current(budgets, str(budget_id), "budget")
            require_match(before, if_match)
            await end_increase(change, before)

    @get("/{budget_id:uuid}/balance", opt=READ, summary="What was spent of a budget, and what is left")
    async def balance(
        self,
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
            _balance(
                budget.nano_usd, each, named[each], None if levels is None else levels[number].used, period
            )
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


def _increases(versions: list[Row], now: datetime) -> list[IncreaseView]:
    found: list[IncreaseView] = []
    for row in versions:
        until = row["increase_until"]
        if until is None or (found and found[-1].until == until and found[-1].ended_at is None):
            continue
        ended = next(
            (
                each["valid_from"]
                for each in versions
                if each["from_change"] > row["from_change"] and each["increase_until"] != until
            ),
            None,
        )
        cut = ended if ended is not None and ended < until else None
        found.append(
            IncreaseView(
                nano_usd=row["increase_nano_usd"],
                usd=usd_of(row["increase_nano_usd"]),
                entered_at=row["valid_from"],
                until=until,
                ended_at=cut,
                in_force=cut is None and until > now,
            )
        )
    return found[::-1]


def _view(row: Row) -> BudgetView:
    increased = row["increase_until"] is not None and row["increase_until"] > datetime.now(UTC)
    return BudgetView(
        id=row["id"],
        name=row["name"],
        scope=row["scope"],
        subject_id=row["subject_id"],
        endpoint_id=row["endpoint_id"],
        period=row["period"],
        time_zone=row["time_zone"],
        nano_usd=row["amount_nano_usd"],
        usd=usd_of(row["amount_nano_usd"]),
        increase_nano_usd=row["increase_nano_usd"] if increased else 0,
        increase_until=row["increase_until"] if increased else None,
        thresholds_percent=list(row["thresholds_percent"]),
        mode=row["mode"],
        enabled=row["enabled"],
        managed_by=row["managed_by"],
        updated_at=row["valid_from"],
    )
