"""Credits and later charges: corrections of what was spent, which budgets and sums see like the spend itself.

An entry is never changed or deleted: what was wrong with it is corrected by another.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody
from msgspec import Meta, Struct

from gateway.errors import BadRequest
from gateway.http.admin.access import Admin
from gateway.http.admin.amounts import NanoUsd, Usd, amount_of
from gateway.http.admin.versions import After, Moment, Page, Size, optional_id
from gateway.store.credits import OfPrincipal, credits_page, enter, read_credit
from gateway.store.reading import Row
from gateway.store.tables.credits import credits
from policies.administration import Permission
from policies.money import usd_of

Kind = Literal["credit", "charge"]
Reason = Annotated[
    str, Meta(min_length=1, max_length=500, pattern=r"^[^\x00]*\S[^\x00]*$", examples=["Outage of 3 May"])
]
READ = {"permission": Permission.CREDITS_READ}
WRITE = {"permission": Permission.CREDITS_WRITE}


class CreditView(Struct, frozen=True, kw_only=True):
    """One entry."""

    id: str
    kind: Kind
    nano_usd: int
    usd: str
    reason: str
    entered_at: datetime
    entered_by_id: str | None
    entered_by: str
    counts_at: datetime
    """Decides every period in which it counts."""
    request_id: str | None
    principal_id: str
    key_id: str | None
    group_id: str | None
    endpoint_id: str | None
    entity_id: str | None


class NewCredit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to enter: for one request, or for a principal; the amount either as `nano_usd` or as `usd`."""

    kind: Kind = "credit"
    """`credit` gives money back, `charge` takes more."""
    nano_usd: NanoUsd | None = None
    usd: Usd | None = None
    reason: Reason
    request_id: UUID | None = None
    """It counts wherever, and whenever, the request did."""
    principal_id: UUID | None = None
    key_id: UUID | None = None
    """Beside `principal_id`: budgets of this key see it as well."""
    group_id: UUID | None = None
    """Beside `principal_id`: budgets of this group see it as well."""
    endpoint_id: UUID | None = None
    """Beside `principal_id`: budgets of, or on, this endpoint see it as well."""
    at: Moment | None = None
    """Beside `principal_id`: the moment at which it counts; left out: now."""


class Credits(Controller):
    """Corrections of what was spent."""

    path = "/credits"
    tags = ("Credits",)

    @get("/", opt=READ, summary="List credits and charges, in order of id")
    async def list_all(
        self,
        admin: NamedDependency[Admin],
        after: After = None,
        size: Size = 50,
        request_id: FromQuery[UUID | None] = None,
        principal_id: FromQuery[UUID | None] = None,
    ) -> Page[CreditView]:
        """`request_id` and `principal_id` narrow the list."""
        conditions: list[Any] = []
        if request_id is not None:
            conditions.append(credits.c.request_id == str(request_id))
        if principal_id is not None:
            conditions.append(credits.c.principal_id == str(principal_id))
        async with admin.reading() as connection:
            found, following = await credits_page(
                connection, *conditions, after=optional_id(after), size=size
            )
        return Page([_view(row) for row in found], following)

    @post("/", opt=WRITE, summary="Enter a credit or a charge")
    async def create(self, admin: NamedDependency[Admin], data: JSONBody[NewCredit]) -> Response[CreditView]:
        """Budgets see it within seconds. It stays: another entry corrects it."""
        amount = amount_of(data.nano_usd, data.usd)
        if not amount:
            raise BadRequest("Give the amount, more than nothing, as nano_usd or as usd.", param="nano_usd")
        of = _whose(data)
        async with admin.change() as change:
            row = await enter(change, of, -amount if data.kind == "credit" else amount, data.reason)
        return Response(_view(row), status_code=201)

    @get("/{credit_id:uuid}", opt=READ, summary="Read a credit or charge")
    async def read(self, admin: NamedDependency[Admin], credit_id: FromPath[UUID]) -> CreditView:
        """As it was entered."""
        async with admin.reading() as connection:
            return _view(await read_credit(connection, str(credit_id)))


def _whose(data: NewCredit) -> str | OfPrincipal:
    if (data.request_id is None) == (data.principal_id is None):
        raise BadRequest("Give exactly one of request_id and principal_id.", param="request_id")
    if data.principal_id is not None:
        return OfPrincipal(
            str(data.principal_id),
            optional_id(data.key_id),
            optional_id(data.group_id),
            optional_id(data.endpoint_id),
            data.at,
        )
    for field in ("key_id", "group_id", "endpoint_id", "at"):
        if getattr(data, field) is not None:
            raise BadRequest(f"{field} follows from the request; leave it out.", param=field)
    return str(data.request_id)


def _view(row: Row) -> CreditView:
    amount = row["nano_usd"]
    return CreditView(
        id=row["id"],
        kind="credit" if amount < 0 else "charge",
        nano_usd=abs(amount),
        usd=usd_of(abs(amount)),
        reason=row["reason"],
        entered_at=row["entered_at"],
        entered_by_id=row["entered_by_id"],
        entered_by=row["entered_by"],
        counts_at=row["counts_at"],
        request_id=row["request_id"],
        principal_id=row["principal_id"],
        key_id=row["key_id"],
        group_id=row["group_id"],
        endpoint_id=row["endpoint_id"],
        entity_id=row["entity_id"],
    )
