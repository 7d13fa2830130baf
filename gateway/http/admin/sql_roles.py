"""Which principal a role of a database stands for when it calls a model from SQL: list, read, map, unmap."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from litestar import Controller, Response, delete, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct

from gateway.http.admin.access import Admin
from gateway.http.admin.versions import After, IfMatch, Page, Size, versioned
from gateway.store.ai_query import CALLER
from gateway.store.reading import Row
from gateway.store.sql_roles import map_role
from gateway.store.tables.sql_calls import sql_roles
from policies.administration import Permission

RoleName = Annotated[
    str, Meta(min_length=1, max_length=63, pattern=r"^[^\x00-\x1f\x7f]+$", examples=["analyst"])
]
READ = {"permission": Permission.IDENTITY_READ}
WRITE = {"permission": Permission.IDENTITY_WRITE}


class SqlRoleView(Struct, frozen=True, kw_only=True):
    """A role of a database, and whom it stands for."""

    id: str
    login: str
    sql_role: str
    principal_id: str
    managed_by: str | None
    updated_at: datetime


class SqlRoleMapping(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A role to map."""

    sql_role: RoleName
    principal_id: UUID
    login: RoleName = CALLER
    """Role that the calling database logs in as; left out: the gateway's own database."""


class SqlRoles(Controller):
    """Roles of databases."""

    path = "/sql-roles"
    tags = ("Identity",)

    @get("/", opt=READ, summary="List roles of databases and whom they stand for, in order of id")
    async def list_all(
        self, admin: NamedDependency[Admin], after: After = None, size: Size = 50
    ) -> Page[SqlRoleView]:
        """Those of all databases that may call."""
        return await admin.listed(_view, sql_roles, after=after, size=size)

    @put("/", opt=WRITE, summary="Let a role of a database stand for a principal")
    async def map(
        self, admin: NamedDependency[Admin], data: JSONBody[SqlRoleMapping]
    ) -> Response[SqlRoleView]:
        """Its calls from then on are the principal's: permissions, limits, budgets and the ledger."""
        async with admin.change() as change:
            row = await map_role(change, data.login, data.sql_role, str(data.principal_id))
        return versioned(row, _view(row))

    @get("/{sql_role_id:uuid}", opt=READ, summary="Read whom a role of a database stands for")
    async def read(self, admin: NamedDependency[Admin], sql_role_id: FromPath[UUID]) -> Response[SqlRoleView]:
        """Answers its version as `ETag`."""
        row = await admin.read(sql_roles, sql_role_id, "sql_role")
        return versioned(row, _view(row))

    @delete("/{sql_role_id:uuid}", opt=WRITE, summary="A role of a database stands for nobody any more")
    async def unmap(
        self, admin: NamedDependency[Admin], sql_role_id: FromPath[UUID], if_match: IfMatch = None
    ) -> None:
        """Calls of it that run are cut within a second."""
        async with admin.revising(sql_roles, sql_role_id, "sql_role", if_match) as (change, before):
            await change.remove(sql_roles, "sql_role", before)


def _view(row: Row) -> SqlRoleView:
    return SqlRoleView(
        id=row["id"],
        login=row["login"],
        sql_role=row["sql_role"],
        principal_id=row["principal_id"],
        managed_by=row["managed_by"],
        updated_at=row["valid_from"],
    )
