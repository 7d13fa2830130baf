"""Change who manages a group.

A manager may be a user, a service principal, or a group whose members all manage it.
"""

from __future__ import annotations

from gateway.errors import NotFound
from gateway.store.changes import Change
from gateway.store.principals import MemberKind, principal
from gateway.store.reading import Row
from gateway.store.tables.identity import groups, roles


async def add_manager(change: Change, group: Row, kind: MemberKind, grantee_id: str) -> Row:
    """Name a manager; one that is named already stays as it is."""
    if kind == "group":
        await change.current(groups, grantee_id, "group")
    else:
        await principal(change, grantee_id, kind)
    there = await change.rows(roles, roles.c.group_id == group["id"], roles.c.grantee_id == grantee_id)
    if there:
        return there[0]
    return await change.add(
        roles,
        "role",
        {
            "role": "group_manager",
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
