"""Users and service principals: list, read, create, change, delete.

Roles are part of a principal here and may be set by administrators only, as everything else on these routes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar
from uuid import UUID

from litestar import Controller, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, Meta, Struct, UnsetType
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import NotFound
from gateway.http.admin.access import Admin
from gateway.http.admin.versions import (
    After,
    Filter,
    FreeText,
    IfMatch,
    Moment,
    Name,
    Page,
    Size,
    optional_id,
    require_match,
    set_fields,
    versioned,
)
from gateway.store.principals import (
    Kind,
    create_principal,
    delete_principal,
    principal,
    update_principal,
)
from gateway.store.reading import Row, current, page, rows
from gateway.store.roles import roles_of, set_roles
from gateway.store.tables.identity import memberships, principals
from policies.administration import Permission
from policies.principal import Role

Email = Annotated[
    str,
    Meta(max_length=320, pattern=r"^[^\x00-\x20\x7f]+@[^\x00-\x20\x7f]+$", examples=["alice@example.com"]),
]
Issuer = Annotated[
    str, Meta(min_length=1, max_length=500, pattern=r"^[\x21-\x7e]+$", examples=["https://login.example.com"])
]
Subject = Annotated[
    str, Meta(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$", examples=["248289761001"])
]
READ = {"permission": Permission.IDENTITY_READ}
WRITE = {"permission": Permission.IDENTITY_WRITE}


class PrincipalView(Struct, frozen=True, kw_only=True):
    """A user or a service principal."""

    id: str
    name: str
    display_name: str
    email: str | None
    active: bool
    tokens_not_before: datetime | None
    issuer: str | None
    """The `iss` of the tokens that stand for it."""
    subject: str | None
    """What the issuer's principal claim (`sub`, where it is set to no other) says in those tokens."""
    roles: list[str]
    groups: list[str]
    """Ids of the groups that it is directly in."""
    managed_by: str | None
    updated_at: datetime


class NewPrincipal(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A principal to create."""

    name: Name
    display_name: FreeText = ""
    email: Email | None = None
    active: bool = True
    issuer: Issuer | None = None
    """Give it with `subject`: tokens of that issuer for that subject stand for this principal."""
    subject: Subject | None = None
    roles: list[Role] = []


class PrincipalChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to change of a principal; what is left out stays."""

    name: Name | UnsetType = UNSET
    display_name: FreeText | UnsetType = UNSET
    email: Email | UnsetType | None = UNSET
    active: bool | UnsetType = UNSET
    tokens_not_before: Moment | UnsetType | None = UNSET
    """JWTs issued before are refused from now on."""
    issuer: Issuer | UnsetType | None = UNSET
    """Changes together with `subject`; null for both takes tokens away from it."""
    subject: Subject | UnsetType | None = UNSET
    roles: list[Role] | UnsetType = UNSET


class _Principals(Controller):
    """The routes that users and service principals share."""

    kind: ClassVar[Kind]

    @get("/", opt=READ, summary="List them, in order of id")
    async def list_all(
        self,
        admin: NamedDependency[Admin],
        after: After = None,
        size: Size = 50,
        name: Filter = None,
    ) -> Page[PrincipalView]:
        """`name` finds the one of exactly that name, whatever its case."""
        conditions: list[Any] = [principals.c.kind == self.kind]
        if name is not None:
            conditions.append(func.lower(principals.c.name) == name.lower())
        async with admin.reading() as connection:
            found, following = await page(
                connection, principals, *conditions, after=optional_id(after), size=size
            )
            return Page(await _views(connection, found), following)

    @post("/", opt=WRITE, summary="Create one")
    async def create(
        self, admin: NamedDependency[Admin], data: JSONBody[NewPrincipal]
    ) -> Response[PrincipalView]:
        """The name must be free among users and service principals alike."""
        values = set_fields(data)
        wanted = frozenset(each.value for each in values.pop("roles"))
        async with admin.change() as change:
            row = await create_principal(change, self.kind, values)
            await set_roles(change, row, self.kind, wanted)
            view = (await _views(change.connection, [row]))[0]
        return versioned(row, view, status_code=201)

    @get("/{principal_id:uuid}", opt=READ, summary="Read one")
    async def read(
        self, admin: NamedDependency[Admin], principal_id: FromPath[UUID]
    ) -> Response[PrincipalView]:
        """Answers its version as `ETag`."""
        async with admin.reading() as connection:
            row = await current(connection, principals, str(principal_id), self.kind)
            if row["kind"] != self.kind:
                raise NotFound(f"There is no {self.kind.replace('_', ' ')} with id {str(principal_id)!r}.")
            return versioned(row, (await _views(connection, [row]))[0])

    @patch("/{principal_id:uuid}", opt=WRITE, summary="Change one")
    async def update(
        self,
        admin: NamedDependency[Admin],
        principal_id: FromPath[UUID],
        data: JSONBody[PrincipalChange],
        if_match: IfMatch = None,
    ) -> Response[PrincipalView]:
        """An inactive principal's keys and tokens are refused within a second."""
        values = set_fields(data)
        wanted = values.pop("roles", None)
        async with admin.change() as change:
            before = await principal(change, str(principal_id), self.kind)
            require_match(before, if_match)
            row = await update_principal(change, before, values)
            if wanted is not None and await set_roles(
                change, row, self.kind, frozenset(each.value for each in wanted)
            ):
                row = await change.renew(principals, row)
            view = (await _views(change.connection, [row]))[0]
        return versioned(row, view)

    @delete("/{principal_id:uuid}", opt=WRITE, summary="Delete one")
    async def remove(
        self, admin: NamedDependency[Admin], principal_id: FromPath[UUID], if_match: IfMatch = None
    ) -> None:
        """Its keys are revoked, its memberships, grants, roles and limits end; the audit and the ledger keep its name."""
        async with admin.change() as change:
            before = await principal(change, str(principal_id), self.kind)
            require_match(before, if_match)
            await delete_principal(change, before)


class Users(_Principals):
    """People."""

    path = "/users"
    tags = ("Identity",)
    kind = "user"


class ServicePrincipals(_Principals):
    """Machines."""

    path = "/service-principals"
    tags = ("Identity",)
    kind = "service_principal"


class Me(Struct, frozen=True, kw_only=True):
    """Who the caller is."""

    id: str
    kind: str
    name: str
    roles: list[str]
    groups: list[str]
    """Names of all its groups, nested ones resolved."""
    key_id: str | None


@get("/me", opt={"permission": Permission.SELF_READ}, tags=["Identity"], summary="Who am I")
async def me(admin: NamedDependency[Admin]) -> Me:
    """The principal behind the credential, with what it holds."""
    who, snapshot = admin.caller.principal, admin.snapshot
    return Me(
        id=who.id,
        kind=who.kind.value,
        name=who.name,
        roles=sorted(role.value for role in who.roles),
        groups=sorted(snapshot.groups[each].name for each in who.groups if each in snapshot.groups),
        key_id=admin.caller.key_id,
    )


async def _views(connection: AsyncConnection, found: list[Row]) -> list[PrincipalView]:
    ids = [row["id"] for row in found]
    held = await roles_of(connection, ids)
    within: dict[str, list[str]] = {}
    for row in await rows(connection, memberships, memberships.c.member_id.in_(ids)):
        within.setdefault(row["member_id"], []).append(row["group_id"])
    return [
        PrincipalView(
            id=row["id"],
            name=row["name"],
            display_name=row["display_name"],
            email=row["email"],
            active=row["active"],
            tokens_not_before=row["tokens_not_before"],
            issuer=row["issuer"],
            subject=row["subject"],
            roles=held.get(row["id"], []),
            groups=sorted(within.get(row["id"], [])),
            managed_by=row["managed_by"],
            updated_at=row["valid_from"],
        )
        for row in found
    ]
