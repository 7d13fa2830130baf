"""Who may use an endpoint: given and taken by its managers and by administrators, one by one or many at once.

One function decides on every way, so that nobody gives or takes more than they hold, whichever route they come by.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from litestar import Controller, Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct

from gateway.errors import BadRequest, Forbidden, NotFound
from gateway.http.admin.access import Admin
from gateway.http.admin.endpoint_shapes import Level
from gateway.http.admin.versions import After, IfMatch, Page, Size, optional_id, require_match, versioned
from gateway.store.endpoints import grant, withdraw
from gateway.store.reading import Row, page
from gateway.store.tables.catalog import endpoints, grants
from policies import permissions
from policies.administration import Permission, may_grant, may_see_sharing
from policies.catalog import Endpoint
from policies.decision import Decision, Deny

SHARE = {"permission": Permission.SERVING_SHARE}


class GrantView(Struct, frozen=True, kw_only=True):
    """A permission on an endpoint."""

    id: str
    endpoint_id: str
    grantee_kind: str
    grantee_id: str
    level: str
    granted_by: str | None
    managed_by: str | None
    updated_at: datetime


class GrantRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A permission to give; the grantee's level becomes this one."""

    grantee_kind: Literal["user", "service_principal", "group"]
    grantee_id: UUID
    level: Level


class BulkGrant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A permission to give, or to take away."""

    endpoint_id: UUID
    grantee_kind: Literal["user", "service_principal", "group"]
    grantee_id: UUID
    level: Level | None
    """null takes away what is there."""


class BulkGrants(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Permissions of one change: all of them, or none."""

    grants: Annotated[list[BulkGrant], Meta(min_length=1, max_length=1000)]


class Grants(Controller):
    """Permissions on endpoints."""

    path = "/endpoints/{endpoint_id:uuid}/grants"
    tags = ("Endpoints",)

    @get("/", opt=SHARE, summary="Who may use an endpoint")
    async def list_grants(
        self, admin: NamedDependency[Admin], endpoint_id: FromPath[UUID], after: After = None, size: Size = 50
    ) -> Page[GrantView]:
        """Direct grants, in order of id; administrators may use every endpoint without one."""
        endpoint = _endpoint(admin, endpoint_id)
        _hold(may_see_sharing(admin.snapshot, admin.caller, endpoint))
        async with admin.reading() as connection:
            found, following = await page(
                connection, grants, grants.c.endpoint_id == endpoint.id, after=optional_id(after), size=size
            )
        return Page([_grant(row) for row in found], following)

    @put("/", opt=SHARE, summary="Give a permission")
    async def give(
        self, admin: NamedDependency[Admin], endpoint_id: FromPath[UUID], data: JSONBody[GrantRequest]
    ) -> Response[GrantView]:
        """Holds within a second on every worker; giving what is there already changes nothing."""
        found = _endpoint(admin, endpoint_id)
        _hold(may_grant(admin.snapshot, admin.caller, found, permissions.Level[data.level]))
        async with admin.change() as change:
            endpoint = await change.current(endpoints, found.id, "endpoint")
            row = await grant(change, endpoint, data.grantee_kind, str(data.grantee_id), data.level)
        return versioned(row, _grant(row))

    @delete("/{grant_id:uuid}", opt=SHARE, summary="Take a permission away")
    async def take(
        self,
        admin: NamedDependency[Admin],
        endpoint_id: FromPath[UUID],
        grant_id: FromPath[UUID],
        if_match: IfMatch = None,
    ) -> None:
        """Holds within a second on every worker."""
        endpoint = _endpoint(admin, endpoint_id)
        _hold(may_grant(admin.snapshot, admin.caller, endpoint, permissions.Level.CAN_VIEW))
        async with admin.change() as change:
            before = await change.current(grants, str(grant_id), "grant")
            if before["endpoint_id"] != endpoint.id:
                raise NotFound(f"There is no grant with id {str(grant_id)!r}.")
            _hold(may_grant(admin.snapshot, admin.caller, endpoint, permissions.Level[before["level"]]))
            require_match(before, if_match)
            await withdraw(change, before)


@post(
    "/grants:bulk", opt=SHARE, status_code=200, tags=["Endpoints"], summary="Give and take many permissions"
)
async def grant_many(admin: NamedDependency[Admin], data: JSONBody[BulkGrants]) -> Page[GrantView]:
    """All of them or none, each decided as it would be alone. Answers those that hold now."""
    named = [(each.endpoint_id, each.grantee_id) for each in data.grants]
    if len(set(named)) != len(named):
        raise BadRequest("A grantee is named twice for the same endpoint.", param="grants")
    wanted = [(_endpoint(admin, each.endpoint_id), each) for each in data.grants]
    for endpoint, each in wanted:
        level = permissions.Level.CAN_VIEW if each.level is None else permissions.Level[each.level]
        _hold(may_grant(admin.snapshot, admin.caller, endpoint, level))
    held: list[Row] = []
    async with admin.change() as change:
        for endpoint, each in wanted:
            if each.level is not None:
                row = await change.current(endpoints, endpoint.id, "endpoint")
                held.append(await grant(change, row, each.grantee_kind, str(each.grantee_id), each.level))
                continue
            there = (grants.c.endpoint_id == endpoint.id, grants.c.grantee_id == str(each.grantee_id))
            for row in await change.rows(grants, *there):
                _hold(may_grant(admin.snapshot, admin.caller, endpoint, permissions.Level[row["level"]]))
                await withdraw(change, row)
    return Page([_grant(row) for row in held])


def _endpoint(admin: Admin, endpoint_id: UUID) -> Endpoint:
    wanted = str(endpoint_id)
    found = next((each for each in admin.snapshot.endpoints.values() if each.id == wanted), None)
    if found is None:
        raise NotFound(f"There is no endpoint with id {wanted!r}.")
    return found


def _hold(decision: Decision) -> None:
    match decision:
        case Deny(code=code, reason=reason):
            raise Forbidden(reason, code=code)
        case _:
            pass


def _grant(row: Row) -> GrantView:
    return GrantView(
        id=row["id"],
        endpoint_id=row["endpoint_id"],
        grantee_kind=row["grantee_kind"],
        grantee_id=row["grantee_id"],
        level=row["level"],
        granted_by=row["granted_by"],
        managed_by=row["managed_by"],
        updated_at=row["valid_from"],
    )
