"""Change who there is: users, service principals, groups and who is in them.

A group is never inside itself, however long the chain; what is deleted takes its memberships, grants, roles and
keys with it in the same change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from gateway.errors import BadRequest, Conflict, NotFound
from gateway.store.changes import Change
from gateway.store.reading import Row
from gateway.store.roles import somebody_administers
from gateway.store.snapshot import all_groups
from gateway.store.tables import rules
from gateway.store.tables.catalog import grants
from gateway.store.tables.identity import api_keys, groups, memberships, principals, roles
from gateway.store.tables.sql_calls import sql_roles
from gateway.store.throughput import delete_provisions_of

Kind = Literal["user", "service_principal"]
MemberKind = Literal["user", "service_principal", "group"]


async def create_principal(change: Change, kind: Kind, values: Mapping[str, Any]) -> Row:
    """Add a user or a service principal."""
    return await change.add(principals, kind, {**values, "kind": kind})


async def principal(change: Change, object_id: str, kind: Kind) -> Row:
    """The principal; NotFound where the id is none, or is of the other kind."""
    row = await change.current(principals, object_id, kind)
    if row["kind"] != kind:
        raise NotFound(f"There is no {kind.replace('_', ' ')} with id {object_id!r}.")
    return row


async def update_principal(change: Change, before: Row, values: Mapping[str, Any]) -> Row:
    """Change a principal's own values."""
    if values.get("active", True):
        return await change.revise(principals, before["kind"], before, **values)
    async with somebody_administers(change):
        return await change.revise(principals, before["kind"], before, **values)


async def delete_principal(change: Change, before: Row) -> None:
    """Delete a principal; its keys are revoked, its grants, roles, limits and memberships go with it."""
    if before["id"] == change.actor.id:
        raise Conflict("A principal cannot delete itself; another administrator can.")
    for key in await change.rows(api_keys, api_keys.c.principal_id == before["id"]):
        if key["revoked_at"] is None:
            await change.revise(api_keys, "api_key", key, action="revoke", revoked_at=change.at)
    async with somebody_administers(change):
        await _delete_of(change, before["id"])
        await change.remove(principals, before["kind"], before)


async def create_group(change: Change, name: str, description: str, *, local_only: bool = False) -> Row:
    """Add an empty group; of a `local_only` one no member's request leaves for another host."""
    values = {"name": name, "description": description, "local_only": local_only}
    return await change.add(groups, "group", values)


async def delete_group(change: Change, before: Row) -> None:
    """Delete a group with its memberships, grants, roles and limits."""
    async with somebody_administers(change):
        for row in await change.rows(memberships, memberships.c.group_id == before["id"]):
            await change.remove(memberships, "membership", row)
        for row in await change.rows(roles, roles.c.group_id == before["id"]):
            await change.remove(roles, "role", row)
        await _delete_of(change, before["id"])
        await delete_provisions_of(change, before["id"])
        await change.remove(groups, "group", before)


async def add_member(change: Change, group: Row, kind: MemberKind, member_id: str) -> Row:
    """Put a principal or a group into a group; refuses what would put a group inside itself."""
    change.require_own("group", group)
    if kind == "group":
        await change.current(groups, member_id, "group")
        within: dict[str, set[str]] = {}
        for row in await change.rows(memberships, memberships.c.member_kind == "group"):
            within.setdefault(row["member_id"], set()).add(row["group_id"])
        if group["id"] == member_id or member_id in all_groups(group["id"], within):
            raise BadRequest("That would put the group inside itself.", param="member_id", code="group_cycle")
    else:
        await principal(change, member_id, kind)
    return await change.add(
        memberships, "membership", {"group_id": group["id"], "member_kind": kind, "member_id": member_id}
    )


async def remove_member(change: Change, group_id: str, member_id: str) -> None:
    """Take a member out of a group."""
    found = await change.rows(
        memberships, memberships.c.group_id == group_id, memberships.c.member_id == member_id
    )
    if not found:
        raise NotFound(f"{member_id!r} is not directly in group {group_id!r}.")
    of_groups = (roles.c.role == "admin", roles.c.grantee_kind == "group")
    if not await change.rows(roles, *of_groups):
        return await change.remove(memberships, "membership", found[0])
    async with somebody_administers(change):
        await change.remove(memberships, "membership", found[0])
    return None


async def _delete_of(change: Change, grantee_id: str) -> None:
    for row in await change.rows(sql_roles, sql_roles.c.principal_id == grantee_id):
        await change.remove(sql_roles, "sql_role", row)
    for row in await change.rows(grants, grants.c.grantee_id == grantee_id):
        await change.remove(grants, "grant", row)
    for row in await change.rows(roles, roles.c.grantee_id == grantee_id):
        await change.remove(roles, "role", row)
    for row in await change.rows(memberships, memberships.c.member_id == grantee_id):
        await change.remove(memberships, "membership", row)
    for table, kind in ((rules.limits, "limit"), (rules.budgets, "budget")):
        for row in await change.rows(table, table.c.subject_id == grantee_id):
            await change.remove(table, kind, row)
