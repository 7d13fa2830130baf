"""Prices of served entities: entered, never edited.

A correction is a new entry that names the wrong one and stands in for it from then on.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromQuery, JSONBody
from msgspec import Meta, Struct

from gateway.errors import BadRequest
from gateway.http.admin.access import Admin
from gateway.http.admin.versions import (
    After,
    FreeText,
    Moment,
    Page,
    Size,
    optional_id,
    set_fields,
    versioned,
)
from gateway.store.endpoints import add_price
from gateway.store.reading import Row, page
from gateway.store.tables.catalog import prices
from policies.administration import Permission
from policies.limits import LARGEST

PerMillion = Annotated[
    int,
    Meta(
        ge=0, le=LARGEST, description="Nano-dollars (1e-9 USD) per 1,000,000 tokens.", examples=[500_000_000]
    ),
]
PerUnit = Annotated[int, Meta(ge=0, le=LARGEST, description="Nano-dollars (1e-9 USD).")]


class PriceView(Struct, frozen=True, kw_only=True):
    """One entry of the price list."""

    id: str
    served_entity_id: str
    effective_from: datetime
    effective_to: datetime | None
    input: int
    cache_read: int
    cache_write: int
    output: int
    reasoning: int
    per_request: int
    per_gpu_second: int
    per_cache_hit: int
    corrects: str | None
    note: str
    managed_by: str | None
    entered_at: datetime


class NewPrice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A price to enter; every class has its own, so none is forgotten."""

    served_entity_id: UUID
    effective_from: Moment | None = None
    """Left out: from now on."""
    effective_to: Moment | None = None
    """Left out: until another price begins."""
    input: PerMillion
    cache_read: PerMillion
    cache_write: PerMillion
    output: PerMillion
    reasoning: PerMillion
    per_request: PerUnit = 0
    per_gpu_second: PerUnit = 0
    per_cache_hit: PerUnit = 0
    """For each request that the endpoint's cache answers, in place of all else."""
    corrects: UUID | None = None
    note: FreeText = ""


class Prices(Controller):
    """The price list."""

    path = "/prices"
    tags = ("Prices",)

    @get("/", opt={"permission": Permission.PRICES_READ}, summary="List prices, in order of id")
    async def list_all(
        self,
        admin: NamedDependency[Admin],
        after: After = None,
        size: Size = 50,
        served_entity_id: FromQuery[UUID | None] = None,
    ) -> Page[PriceView]:
        """Past, present, future and corrected ones."""
        conditions = [] if served_entity_id is None else [prices.c.served_entity_id == str(served_entity_id)]
        async with admin.reading() as connection:
            found, following = await page(
                connection, prices, *conditions, after=optional_id(after), size=size
            )
        return Page([_view(row) for row in found], following)

    @post("/", opt={"permission": Permission.PRICES_WRITE}, summary="Enter a price")
    async def create(self, admin: NamedDependency[Admin], data: JSONBody[NewPrice]) -> Response[PriceView]:
        """What was settled stays as it was settled; requests admitted from `effective_from` on cost this."""
        values = set_fields(data)
        entity = str(values.pop("served_entity_id"))
        values["corrects"] = optional_id(values["corrects"])
        begins, ends = values["effective_from"], values["effective_to"]
        if begins is not None and ends is not None and ends <= begins:
            raise BadRequest("effective_to must be after effective_from.", param="effective_to")
        async with admin.change() as change:
            row = await add_price(change, entity, values)
        return versioned(row, _view(row), status_code=201)


def _view(row: Row) -> PriceView:
    return PriceView(
        id=row["id"],
        served_entity_id=row["served_entity_id"],
        effective_from=row["effective_from"],
        effective_to=row["effective_to"],
        input=row["input"],
        cache_read=row["cache_read"],
        cache_write=row["cache_write"],
        output=row["output"],
        reasoning=row["reasoning"],
        per_request=row["per_request"],
        per_gpu_second=row["per_gpu_second"],
        per_cache_hit=row["per_cache_hit"],
        corrects=row["corrects"],
        note=row["note"],
        managed_by=row["managed_by"],
        entered_at=row["valid_from"],
    )
