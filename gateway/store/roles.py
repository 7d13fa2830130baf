"""Roles of the control plane: who holds them, by itself or by being in a group, and who manages a group.

Whatever changes, somebody active still administers the deployment; a change that would leave nobody is refused whole.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import Conflict, NotFound
from gateway.store.changes import Change
from gateway.store.reading import Row, rows
from gateway.store.snapshot import all_groups
from gateway.store.tables.identity import groups, memberships, principals, roles

MANAGER = "group_manager"


async def set_roles(change: Change, grantee: Row, kind: str, wanted: frozenset[str]) -> bool:
    """Give and take roles until the grantee directly holds those wanted; whether any was.

    What a group holds, all its members hold.
    """
    # A file that has the grantee says all of its roles.
    change.require_own(kind, grantee)
    own = (roles.c.grantee_id == grantee["id"], roles.c.group_id.is_(None))
    held = {row["role"]: row for row in await change.rows(roles, *own)}
    for role in sorted(wanted - held.keys()):
        await change.add(
            roles,
            "role",
            {"role": role, "grantee_kind": kind, "grantee_id": grantee["id"], "granted_by": change.actor.id},
        )
    gone = sorted(held.keys() - wanted)
    if gone:
        async with somebody_administers(change):
            for role in gone:
                await change.remove(roles, "role", held[role])
    return wanted != held.keys()


async def roles_of(connection: AsyncConnection, grantees: Sequence[str]) -> Mapping[str, list[str]]:
    """The roles that each of these holds by itself, in order."""
    held: dict[str, list[str]] = {}
    direct = (roles.c.grantee_id.in_(grantees), roles.c.group_id.is_(None))
    for row in await rows(connection, roles, *direct):
        held.setdefault(row["grantee_id"], []).append(row["role"])
    return {each: sorted(found) for each, found in held.items()}


async def set_managers(change: Change, group: Row, wanted: Mapping[str, str]) -> None:
    """Name and dismiss until those wanted, kind by id, manage the group; a file takes over who does already."""
    there = {row["grantee_id"]: row for row in await change.rows(roles, roles.c.group_id == group["id"])}
    for gone in sorted(there.keys() - wanted.keys()):
        await remove_manager(change, group["id"], gone)
    for each, kind in sorted(wanted.items()):
        if each in there:
            await change.revise(roles, "role", there[each])
        else:
            await add_manager(change, group, kind, each)


async def add_manager(change: Change, group: Row, kind: str, grantee_id: str) -> Row:
    """Name a manager: a user, a service principal, or a group whose members all manage it."""
    # A file that has the group says all of its managers.
    change.require_own("group", group)
    table = groups if kind == "group" else principals
    grantee = await change.current(table, grantee_id, kind)
    if kind != "group" and grantee["kind"] != kind:
        raise NotFound(f"There is no {kind.replace('_', ' ')} with id {grantee_id!r}.")
    there = await change.rows(roles, roles.c.group_id == group["id"], roles.c.grantee_id == grantee_id)
    if there:
        return there[0]
    return await change.add(
        roles,
        "role",
        {
            "role": MANAGER,
            "grantee_kind": kind,
            "grantee_id": grantee_id,
            "group_id": group["id"],
            "granted_by": change.actor.id,
        },
    )


async def remove_manager(change: Change, group_id: str, grantee_id: str) -> None:
    """A manager no longer is one."""
    found = await change.rows(roles, roles.c.group_id == group_id, roles.c.grantee_id == grantee_id)
    if not found:
        raise NotFound(f"{grantee_id!r} does not manage group {group_id!r}.")
    await change.remove(roles, "role", found[0])


@asynccontextmanager
async def somebody_administers(change: Change) -> AsyncGenerator[None]:
    """Refuse what is done in the block where it takes the last active administrator away."""
    before = await _administrators(change)
    yield
    if before and not await _administrators(change):
        raise Conflict("That would leave the deployment without an administrator; make another one first.")


async def _administrators(change: Change) -> set[str]:
    """Active principals that hold the role, by themselves or through groups, nested ones followed."""
    holders = {row["grantee_id"] for row in await change.rows(roles, roles.c.role == "admin")}
    people = {row["id"] for row in await change.rows(principals, principals.c.active)}
    found = people & holders
    if holders <= people:
        return found
    within: dict[str, set[str]] = {}
    for row in await change.rows(memberships):
        within.setdefault(row["member_id"], set()).add(row["group_id"])
    return found | {each for each in people & within.keys() if all_groups(each, within) & holders}
