"""Budgets: how much money may be spent, by whom, in which period. What is left, and what is added, have files of their own.

Amounts are integer nano-dollars (1e-9 USD); a decimal amount in dollars is taken as well, and both are answered.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from litestar import Controller, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import UNSET, Meta, Struct, UnsetType

from gateway.errors import BadRequest
from gateway.http.admin.access import Admin
from gateway.http.admin.amounts import NanoUsd, Usd, amount_of
from gateway.http.admin.limits import LimitName
from gateway.http.admin.versions import (
    After,
    IfMatch,
    Page,
    Size,
    optional_id,
    set_fields,
    versioned,
)
from gateway.store.budgets import create_budget, delete_budget, update_budget
from gateway.store.reading import Row
from gateway.store.tables.rules import budgets
from policies.administration import Permission
from policies.money import usd_of

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
        return await admin.listed(budget_view, budgets, *conditions, after=after, size=size)

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
        return versioned(row, budget_view(row), status_code=201)

    @get("/{budget_id:uuid}", opt=READ, summary="Read a budget")
    async def read(self, admin: NamedDependency[Admin], budget_id: FromPath[UUID]) -> Response[BudgetView]:
        """Answers its version as `ETag`."""
        row = await admin.read(budgets, budget_id, "budget")
        return versioned(row, budget_view(row))

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
        async with admin.revising(budgets, budget_id, "budget", if_match) as (change, before):
            row = await update_budget(change, before, values)
        return versioned(row, budget_view(row))

    @delete("/{budget_id:uuid}", opt=WRITE, summary="Delete a budget")
    async def remove(
        self, admin: NamedDependency[Admin], budget_id: FromPath[UUID], if_match: IfMatch = None
    ) -> None:
        """Nothing is refused for it any more within a second."""
        async with admin.revising(budgets, budget_id, "budget", if_match) as (change, before):
            await delete_budget(change, before)


def budget_view(row: Row) -> BudgetView:
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
