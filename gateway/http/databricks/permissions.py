"""Who may use an endpoint, read and set in Databricks' shape by those who may manage it.

No one gives or takes more than they hold, and every change is one audited transaction: all of the list, or none.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from litestar import get, patch, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import BadRequest, Forbidden, NotFound
from gateway.http.admin.access import Admin
from gateway.store.changes import Change
from gateway.store.endpoints import grant, withdraw
from gateway.store.principals import MemberKind
from gateway.store.reading import Row, rows
from gateway.store.tables.catalog import endpoints, grants
from gateway.store.tables.identity import groups, principals
from policies.administration import Permission, may_grant
from policies.catalog import Endpoint
from policies.decision import Deny
from policies.permissions import Level

SHARE = {"permission": Permission.SERVING_SHARE}
_PATH = "/permissions/serving-endpoints/{endpoint_id:str}"
_NAMES: dict[MemberKind, str] = {
    "user": "user_name",
    "group": "group_name",
    "service_principal": "service_principal_name",
}
_MEANING = {
    Level.CAN_VIEW: "Can see the endpoint",
    Level.CAN_QUERY: "Can query the endpoint",
    Level.CAN_MANAGE: "Can manage the endpoint",
}
GranteeName = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00]+$")]


class AccessControl(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One grantee, by exactly one of its names, and its level."""

    user_name: GranteeName | None = None
    group_name: GranteeName | None = None
    service_principal_name: GranteeName | None = None
    permission_level: Literal["CAN_VIEW", "CAN_QUERY", "CAN_MANAGE"]


class AccessControls(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Permissions to set."""

    access_control_list: Annotated[list[AccessControl], Meta(max_length=1000)] = []


@get(_PATH, opt=SHARE, tags=["Databricks"], summary="Permissions of an endpoint")
async def get_permissions(admin: NamedDependency[Admin], endpoint_id: FromPath[str]) -> dict[str, Any]:
    """Direct grants; administrators manage every endpoint without one."""
    endpoint = _managed(admin, endpoint_id, Level.CAN_MANAGE)
    async with admin.reading() as connection:
        return await _shown(connection, endpoint)


@put(_PATH, opt=SHARE, tags=["Databricks"], summary="Replace the permissions of an endpoint")
async def set_permissions(
    admin: NamedDependency[Admin], endpoint_id: FromPath[str], data: JSONBody[AccessControls]
) -> dict[str, Any]:
    """What is not in the list is taken away."""
    return await _apply(admin, endpoint_id, data, replace=True)


@patch(_PATH, opt=SHARE, tags=["Databricks"], summary="Change permissions of an endpoint")
async def update_permissions(
    admin: NamedDependency[Admin], endpoint_id: FromPath[str], data: JSONBody[AccessControls]
) -> dict[str, Any]:
    """What is not in the list stays."""
    return await _apply(admin, endpoint_id, data, replace=False)


@get(f"{_PATH}/permissionLevels", opt=SHARE, tags=["Databricks"], summary="Permission levels of endpoints")
async def get_permission_levels(admin: NamedDependency[Admin], endpoint_id: FromPath[str]) -> dict[str, Any]:
    """The levels that may be given."""
    _managed(admin, endpoint_id, Level.CAN_MANAGE)
    return {
        "permission_levels": [
            {"permission_level": level.name, "description": meaning} for level, meaning in _MEANING.items()
        ]
    }


PERMISSION_ROUTES = (get_permissions, set_permissions, update_permissions, get_permission_levels)


async def _apply(
    admin: NamedDependency[Admin],
    endpoint_id: FromPath[str],
    data: JSONBody[AccessControls],
    *,
    replace: bool,
) -> dict[str, Any]:
    highest = max((Level[each.permission_level] for each in data.access_control_list), default=Level.CAN_VIEW)
    endpoint = _managed(admin, endpoint_id, highest)
    async with admin.change() as change:
        row = await change.current(endpoints, endpoint.id, "endpoint")
        named: set[str] = set()
        for each in data.access_control_list:
            kind, grantee = await _grantee(change, each)
            if grantee in named:
                raise BadRequest("A grantee is in the list twice.", param="access_control_list")
            named.add(grantee)
            await grant(change, row, kind, grantee, each.permission_level)
        if replace:
            for old in await change.rows(grants, grants.c.endpoint_id == endpoint.id):
                if old["grantee_id"] not in named:
                    await withdraw(change, old)
        return await _shown(change.connection, endpoint)


def _managed(admin: NamedDependency[Admin], endpoint_id: FromPath[str], level: Level) -> Endpoint:
    endpoint = next((each for each in admin.snapshot.endpoints.values() if each.id == endpoint_id), None)
    if endpoint is None:
        raise NotFound(f"There is no serving endpoint with id {endpoint_id!r}.")
    match may_grant(admin.snapshot, admin.caller, endpoint, level):
        case Deny(code=code, reason=reason):
            raise Forbidden(reason, code=code)
        case _:
            return endpoint


async def _grantee(change: Change, entry: AccessControl) -> tuple[MemberKind, str]:
    given: list[tuple[MemberKind, str]] = [
        (kind, name) for kind, field in _NAMES.items() if (name := getattr(entry, field)) is not None
    ]
    if len(given) != 1:
        raise BadRequest(
            "Each entry names exactly one of user_name, group_name and service_principal_name.",
            param="access_control_list",
        )
    kind, name = given[0]
    if kind == "group":
        found = await change.rows(groups, func.lower(groups.c.name) == name.lower())
    else:
        found = await change.rows(
            principals, func.lower(principals.c.name) == name.lower(), principals.c.kind == kind
        )
    if not found:
        raise NotFound(f"There is no {kind.replace('_', ' ')} {name!r}.")
    return kind, found[0]["id"]


async def _shown(connection: AsyncConnection, endpoint: Endpoint) -> dict[str, Any]:
    found = await rows(connection, grants, grants.c.endpoint_id == endpoint.id)
    ids = [row["grantee_id"] for row in found]
    names: dict[str, Row] = {
        row["id"]: row for row in await rows(connection, principals, principals.c.id.in_(ids))
    }
    names |= {row["id"]: row for row in await rows(connection, groups, groups.c.id.in_(ids))}
    return {
        "object_id": f"/serving-endpoints/{endpoint.id}",
        "object_type": "serving-endpoint",
        "access_control_list": [
            {
                _NAMES[row["grantee_kind"]]: names[row["grantee_id"]]["name"],
                "display_name": names[row["grantee_id"]]["name"],
                "all_permissions": [{"permission_level": row["level"], "inherited": False}],
            }
            for row in found
            if row["grantee_id"] in names
        ],
    }
