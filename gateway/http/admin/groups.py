"""Groups: list, read, create, change, delete. Who is in them, and who manages that, has routes of its own.

What was granted to a group ends with it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from litestar import Controller, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, Meta, Struct, UnsetType
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.http.admin.access import Admin
from gateway.http.admin.versions import (
    After,
    Filter,
    FreeText,
    IfMatch,
    Page,
    Size,
    optional_id,
    set_fields,
    versioned,
)
from gateway.store.principals import create_group, delete_group
from gateway.store.reading import Row, current, page
from gateway.store.roles import roles_of, set_roles
from gateway.store.tables.identity import groups
from policies.administration import Permission
from policies.principal import Role

GroupName = Annotated[
    str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$", examples=["data-science"])
]
READ = {"permission": Permission.IDENTITY_READ}
WRITE = {"permission": Permission.IDENTITY_WRITE}


class GroupView(Struct, frozen=True, kw_only=True):
    """A group."""

    id: str
    name: str
    description: str
    local_only: bool
    roles: list[str]
    """What its members hold by being in it, those of groups within it included."""
    managed_by: str | None
    updated_at: datetime


class NewGroup(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A group to create."""

    name: GroupName
    description: FreeText = ""
    local_only: bool = False
    """Requests of its members never leave for another host."""
    roles: list[Role] = []
    """What its members hold by being in it."""


class GroupChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to change of a group; what is left out stays."""

    name: GroupName | UnsetType = UNSET
    description: FreeText | UnsetType = UNSET
    local_only: bool | UnsetType = UNSET
    roles: list[Role] | UnsetType = UNSET


class Groups(Controller):
    """Groups."""

    path = "/groups"
    tags = ("Identity",)

    @get("/", opt=READ, summary="List groups, in order of id")
    async def list_all(
        self,
        admin: NamedDependency[Admin],
        after: After = None,
        size: Size = 50,
        name: Filter = None,
    ) -> Page[GroupView]:
        """`name` finds the one of exactly that name, whatever its case."""
        conditions: list[Any] = [] if name is None else [func.lower(groups.c.name) == name.lower()]
        async with admin.reading() as connection:
            found, following = await page(
                connection, groups, *conditions, after=optional_id(after), size=size
            )
            return Page(await _views(connection, found), following)

    @post("/", opt=WRITE, summary="Create a group")
    async def create(self, admin: NamedDependency[Admin], data: JSONBody[NewGroup]) -> Response[GroupView]:
        """It begins empty."""
        async with admin.change() as change:
            row = await create_group(change, data.name, data.description, local_only=data.local_only)
            await set_roles(change, row, "group", frozenset(each.value for each in data.roles))
            return versioned(row, (await _views(change.connection, [row]))[0], status_code=201)

    @get("/{group_id:uuid}", opt=READ, summary="Read a group")
    async def read(self, admin: NamedDependency[Admin], group_id: FromPath[UUID]) -> Response[GroupView]:
        """Answers its version as `ETag`."""
        async with admin.reading() as connection:
            row = await current(connection, groups, str(group_id), "group")
            return versioned(row, (await _views(connection, [row]))[0])

    @patch("/{group_id:uuid}", opt=WRITE, summary="Change a group")
    async def update(
        self,
        admin: NamedDependency[Admin],
        group_id: FromPath[UUID],
        data: JSONBody[GroupChange],
        if_match: IfMatch = None,
    ) -> Response[GroupView]:
        """Members are changed on their own routes."""
        values = set_fields(data)
        wanted = values.pop("roles", None)
        async with admin.revising(groups, group_id, "group", if_match) as (change, before):
            row = await change.revise(groups, "group", before, **values)
            if wanted is not None and await set_roles(
                change, row, "group", frozenset(each.value for each in wanted)
            ):
                row = await change.renew(groups, row)
            return versioned(row, (await _views(change.connection, [row]))[0])

    @delete("/{group_id:uuid}", opt=WRITE, summary="Delete a group")
    async def remove(
        self, admin: NamedDependency[Admin], group_id: FromPath[UUID], if_match: IfMatch = None
    ) -> None:
        """What was granted to it ends with it."""
        async with admin.revising(groups, group_id, "group", if_match) as (change, before):
            await delete_group(change, before)


async def _views(connection: AsyncConnection, found: list[Row]) -> list[GroupView]:
    held = await roles_of(connection, [row["id"] for row in found])
    return [
        GroupView(
            id=row["id"],
            name=row["name"],
            description=row["description"],
            local_only=row["local_only"],
            roles=held.get(row["id"], []),
            managed_by=row["managed_by"],
            updated_at=row["valid_from"],
        )
        for row in found
    ]
