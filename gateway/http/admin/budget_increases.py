"""Money that is added to a budget for a while, and ends by itself.

One increase at a time; what was spent of it stays spent.
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from litestar import Controller, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Struct
from sqlalchemy import select

from gateway.errors import BadRequest
from gateway.http.admin.access import Admin
from gateway.http.admin.amounts import NanoUsd, Usd, amount_of
from gateway.http.admin.budgets import READ, WRITE, BudgetView, budget_view
from gateway.http.admin.versions import IfMatch, Moment, Page, versioned
from gateway.store.budgets import end_increase, increase_budget
from gateway.store.reading import Row, current
from gateway.store.tables.rules import budgets
from policies.money import usd_of


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


class NewIncrease(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to add for a while; the amount either as `nano_usd` or as `usd`."""

    nano_usd: NanoUsd | None = None
    usd: Usd | None = None
    until: Moment


class Increases(Controller):
    """Increases of a budget."""

    path = "/budgets/{budget_id:uuid}/increases"
    tags = ("Budgets",)

    @get("/", opt=READ, summary="List a budget's increases, newest first")
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

    @post("/", opt=WRITE, summary="Add to a budget for a while")
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
        async with admin.revising(budgets, budget_id, "budget", if_match) as (change, before):
            row = await increase_budget(change, before, amount, data.until)
        return versioned(row, budget_view(row), status_code=201)

    @delete("/", opt=WRITE, summary="End a budget's present increase")
    async def no_increase(
        self, admin: NamedDependency[Admin], budget_id: FromPath[UUID], if_match: IfMatch = None
    ) -> None:
        """What was spent of it stays spent."""
        async with admin.revising(budgets, budget_id, "budget", if_match) as (change, before):
            await end_increase(change, before)


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
