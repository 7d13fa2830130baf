"""Who is directly in a group, and who manages that: administrators for all groups, managers for their own.

A group may be in other groups; what would put one inside itself is refused. Many at once are one change: all or none,
each decided as it would be alone.
"""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from litestar import Controller, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct

from gateway.errors import BadRequest, Forbidden, NotFound
from gateway.http.admin.access import Admin
from gateway.http.admin.versions import After, Page, Size, optional_id
from gateway.store.principals import add_member, remove_member
from gateway.store.reading import Row, current, page
from gateway.store.roles import add_manager, remove_manager
from gateway.store.tables.identity import groups, memberships, roles
from policies.administration import Permission, may_change_members, may_see_members
from policies.decision import Decision, Deny
from policies.principal import Group

MANAGE = {"permission": Permission.GROUPS_MANAGE}
READ = {"permission": Permission.IDENTITY_READ}
WRITE = {"permission": Permission.IDENTITY_WRITE}
_MOST = 1000


class Member(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A direct member of a group, or a manager of it."""

    member_kind: Literal["user", "service_principal", "group"]
    member_id: UUID


class MemberChanges(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Members to put in and to take out, all in one change."""

    add: Annotated[list[Member], Meta(max_length=_MOST)] = []
    remove: Annotated[list[UUID], Meta(max_length=_MOST)] = []
    """Their ids."""


class Changed(Struct, frozen=True, kw_only=True):
    """How many were put in and taken out."""

    added: int
    removed: int


class Members(Controller):
    """Members and managers of groups."""

    path = "/groups/{group_id:uuid}"
    tags = ("Identity",)

    @get("/members", opt=MANAGE, summary="List the direct members of a group")
    async def list_members(
        self, admin: NamedDependency[Admin], group_id: FromPath[UUID], after: After = None, size: Size = 50
    ) -> Page[Member]:
        """In order of when they became members; `after` takes `next` of the page before."""
        group = await _group(admin, group_id)
        _hold(may_see_members(admin.caller, group))
        async with admin.reading() as connection:
            found, following = await page(
                connection,
                memberships,
                memberships.c.group_id == group.id,
                after=optional_id(after),
                size=size,
            )
        return Page([_member(row) for row in found], following)

    @post("/members", opt=MANAGE, summary="Put a member into a group")
    async def add(
        self, admin: NamedDependency[Admin], group_id: FromPath[UUID], data: JSONBody[Member]
    ) -> Member:
        """A user, a service principal or another group."""
        group = await _changeable(admin, group_id)
        async with admin.change() as change:
            row = await change.current(groups, group.id, "group")
            return _member(await add_member(change, row, data.member_kind, str(data.member_id)))

    @delete("/members/{member_id:uuid}", opt=MANAGE, summary="Take a member out of a group")
    async def take_out(
        self, admin: NamedDependency[Admin], group_id: FromPath[UUID], member_id: FromPath[UUID]
    ) -> None:
        """What it had through the group ends within a second."""
        group = await _changeable(admin, group_id)
        async with admin.change() as change:
            await remove_member(change, group.id, str(member_id))

    @post("/members:bulk", opt=MANAGE, status_code=200, summary="Change many members of a group at once")
    async def change_many(
        self, admin: NamedDependency[Admin], group_id: FromPath[UUID], data: JSONBody[MemberChanges]
    ) -> Changed:
        """All of it or none; who is both put in and taken out is a mistake."""
        group = await _changeable(admin, group_id)
        if {each.member_id for each in data.add} & set(data.remove):
            raise BadRequest("A member is both in `add` and in `remove`.", param="remove")
        async with admin.change() as change:
            row = await change.current(groups, group.id, "group")
            for gone in data.remove:
                await remove_member(change, group.id, str(gone))
            for each in data.add:
                await add_member(change, row, each.member_kind, str(each.member_id))
        return Changed(added=len(data.add), removed=len(data.remove))

    @get("/managers", opt=READ, summary="List the managers of a group")
    async def list_managers(
        self, admin: NamedDependency[Admin], group_id: FromPath[UUID], after: After = None, size: Size = 50
    ) -> Page[Member]:
        """Users, service principals, and groups whose members all manage it."""
        async with admin.reading() as connection:
            await current(connection, groups, str(group_id), "group")
            found, following = await page(
                connection, roles, roles.c.group_id == str(group_id), after=optional_id(after), size=size
            )
        return Page(
            [Member(member_kind=row["grantee_kind"], member_id=UUID(row["grantee_id"])) for row in found],
            following,
        )

    @post("/managers", opt=WRITE, summary="Name a manager of a group")
    async def name(
        self, admin: NamedDependency[Admin], group_id: FromPath[UUID], data: JSONBody[Member]
    ) -> Member:
        """It may change who is in this group, unless the group gives a role that it does not hold; nothing else."""
        async with admin.change() as change:
            row = await change.current(groups, str(group_id), "group")
            await add_manager(change, row, data.member_kind, str(data.member_id))
        return data

    @delete("/managers/{manager_id:uuid}", opt=WRITE, summary="A manager no longer is one")
    async def dismiss(
        self, admin: NamedDependency[Admin], group_id: FromPath[UUID], manager_id: FromPath[UUID]
    ) -> None:
        """Whom it put into the group stays."""
        async with admin.change() as change:
            await remove_manager(change, str(group_id), str(manager_id))


async def _group(admin: Admin, group_id: UUID) -> Group:
    found = admin.snapshot.groups.get(str(group_id))
    if found is None:
        raise NotFound(f"There is no group with id {str(group_id)!r}.")
    return found


async def _changeable(admin: Admin, group_id: UUID) -> Group:
    group = await _group(admin, group_id)
    _hold(may_change_members(admin.snapshot, admin.caller, group))
    return group


def _hold(decision: Decision) -> None:
    match decision:
        case Deny(code=code, reason=reason):
            raise Forbidden(reason, code=code)
        case _:
            pass


def _member(row: Row) -> Member:
    return Member(member_kind=row["member_kind"], member_id=UUID(row["member_id"]))
