"""Rate limits: how much of what, for whom, in which window.

Whose limit it is and what it counts stay as they were made; the amount, the mode and the name may change.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from litestar import Controller, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from msgspec import UNSET, Meta, Struct, UnsetType

from gateway.errors import BadRequest
from gateway.http.admin.access import Admin
from gateway.http.admin.versions import (
    After,
    IfMatch,
    Page,
    Size,
    optional_id,
    set_fields,
    versioned,
)
from gateway.store.reading import Row
from gateway.store.rule_values import window_of
from gateway.store.rules import create_limit, delete_limit, update_limit
from gateway.store.tables.rules import limits
from policies.administration import Permission
from policies.limits import LARGEST
from policies.windows import Rolling, parse, text_of

Scope = Literal["endpoint", "user", "user_default", "group", "group_default", "service_principal", "key"]
MetricName = Literal["requests", "input_tokens", "output_tokens", "total_tokens", "concurrent_requests"]
ModeName = Literal["strict", "share", "open", "observe"]
Amount = Annotated[
    int, Meta(ge=0, le=LARGEST, description="How much fits into one window; 0 allows nothing.")
]
LimitName = Annotated[str, Meta(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")]
WindowText = Annotated[
    str,
    Meta(
        max_length=100,
        description="`rolling:<milliseconds>` (a second to a day) or `calendar:<day|week|month|once>:<IANA zone>`.",
        examples=["rolling:60000", "calendar:month:Europe/Berlin"],
    ),
]
READ = {"permission": Permission.LIMITS_READ}
WRITE = {"permission": Permission.LIMITS_WRITE}


class LimitView(Struct, frozen=True, kw_only=True):
    """A rate limit."""

    id: str
    name: str
    scope: str
    subject_id: str | None
    endpoint_id: str | None
    metric: str
    window: str | None
    amount: int
    mode: str
    enabled: bool
    by_owner: bool
    """Set on the endpoint's own route: its managers may change it."""
    managed_by: str | None
    updated_at: datetime


class NewLimit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rate limit to create."""

    name: LimitName = ""
    scope: Scope
    subject_id: UUID | None = None
    """The endpoint, user, group, service principal or key; left out, an endpoint or key limit counts each apart."""
    endpoint_id: UUID | None = None
    """Counts only calls of this endpoint; left out, calls of all endpoints together."""
    metric: MetricName
    window: WindowText | None = None
    """Left out for concurrent_requests only."""
    amount: Amount
    mode: ModeName = "share"
    enabled: bool = True


class LimitChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to change of a limit; what is left out stays."""

    name: LimitName | UnsetType = UNSET
    amount: Amount | UnsetType = UNSET
    mode: ModeName | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET


class Limits(Controller):
    """Rate limits."""

    path = "/limits"
    tags = ("Limits",)

    @get("/", opt=READ, summary="List rate limits, in order of id")
    async def list_all(
        self,
        admin: NamedDependency[Admin],
        after: After = None,
        size: Size = 50,
        of_scope: Annotated[Scope | None, QueryParameter(name="scope")] = None,
        subject_id: FromQuery[UUID | None] = None,
        endpoint_id: FromQuery[UUID | None] = None,
    ) -> Page[LimitView]:
        """`scope`, `subject_id` and `endpoint_id` narrow the list."""
        conditions: list[Any] = []
        if of_scope is not None:
            conditions.append(limits.c.scope == of_scope)
        if subject_id is not None:
            conditions.append(limits.c.subject_id == str(subject_id))
        if endpoint_id is not None:
            conditions.append(limits.c.endpoint_id == str(endpoint_id))
        return await admin.listed(_view, limits, *conditions, after=after, size=size)

    @post("/", opt=WRITE, summary="Create a rate limit")
    async def create(self, admin: NamedDependency[Admin], data: JSONBody[NewLimit]) -> Response[LimitView]:
        """In force on every worker within a second; what was used before counts only where another limit counted it."""
        values = set_fields(data)
        values["subject_id"] = optional_id(values["subject_id"])
        values["endpoint_id"] = optional_id(values["endpoint_id"])
        values |= window_columns(values.pop("window"))
        async with admin.change() as change:
            row = await create_limit(change, values)
        return versioned(row, _view(row), status_code=201)

    @get("/{limit_id:uuid}", opt=READ, summary="Read a rate limit")
    async def read(self, admin: NamedDependency[Admin], limit_id: FromPath[UUID]) -> Response[LimitView]:
        """Answers its version as `ETag`."""
        row = await admin.read(limits, limit_id, "limit")
        return versioned(row, _view(row))

    @patch("/{limit_id:uuid}", opt=WRITE, summary="Change a rate limit")
    async def update(
        self,
        admin: NamedDependency[Admin],
        limit_id: FromPath[UUID],
        data: JSONBody[LimitChange],
        if_match: IfMatch = None,
    ) -> Response[LimitView]:
        """What has been counted stays counted."""
        async with admin.revising(limits, limit_id, "limit", if_match) as (change, before):
            row = await update_limit(change, before, set_fields(data))
        return versioned(row, _view(row))

    @delete("/{limit_id:uuid}", opt=WRITE, summary="Delete a rate limit")
    async def remove(
        self, admin: NamedDependency[Admin], limit_id: FromPath[UUID], if_match: IfMatch = None
    ) -> None:
        """Nothing is refused for it any more within a second."""
        async with admin.revising(limits, limit_id, "limit", if_match) as (change, before):
            await delete_limit(change, before)


def window_columns(window: str | None) -> dict[str, Any]:
    """A window's text as the table holds it; raises BadRequest for one that is none."""
    columns: dict[str, Any] = {
        "window_kind": "none",
        "window_ms": None,
        "window_unit": None,
        "time_zone": None,
    }
    if window is None:
        return columns
    try:
        read = parse(window)
    except ValueError as error:
        raise BadRequest(f"window: {error}.", param="window") from error
    if isinstance(read, Rolling):
        return {**columns, "window_kind": "rolling", "window_ms": read.milliseconds}
    return {**columns, "window_kind": "calendar", "window_unit": read.unit.value, "time_zone": read.zone}


def _view(row: Row) -> LimitView:
    window = window_of(row)
    return LimitView(
        id=row["id"],
        name=row["name"],
        scope=row["scope"],
        subject_id=row["subject_id"],
        endpoint_id=row["endpoint_id"],
        metric=row["metric"],
        window=None if window is None else text_of(window),
        amount=row["amount"],
        mode=row["mode"],
        enabled=row["enabled"],
        by_owner=row["by_owner"],
        managed_by=row["managed_by"],
        updated_at=row["valid_from"],
    )
