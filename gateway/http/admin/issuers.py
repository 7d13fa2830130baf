"""Issuers of tokens that are taken beside API keys.

A shared secret is written and never read: no answer, list or audit entry holds it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from litestar import Controller, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, Meta, Struct, UnsetType, field

from gateway.http.admin.access import Admin
from gateway.http.admin.key_shapes import Planes
from gateway.http.admin.versions import (
    After,
    IfMatch,
    Name,
    Page,
    Size,
    set_fields,
    versioned,
)
from gateway.store.issuers import create_issuer, delete_issuer, update_issuer
from gateway.store.reading import Row
from gateway.store.tables.identity import issuers
from policies.administration import Permission
from policies.tokens import MAX_AGE_SECONDS, MAX_LEEWAY_SECONDS

FamilyName = Literal["RS", "ES", "EdDSA", "HS"]
PrincipalKindName = Literal["user", "service_principal"]
Address = Annotated[
    str,
    Meta(
        min_length=8,
        max_length=500,
        pattern=r"^https?://[\x21-\x7e]+$",
        examples=["https://login.example.com"],
    ),
]
Audience = Annotated[
    str, Meta(min_length=1, max_length=255, pattern=r"^[\x20-\x7e]+$", examples=["weighbridge"])
]
Claim = Annotated[
    str, Meta(min_length=1, max_length=255, pattern=r"^[\x20-\x7e]+$", examples=["sub", "groups"])
]
Age = Annotated[int, Meta(ge=1, le=MAX_AGE_SECONDS)]
Leeway = Annotated[int, Meta(ge=0, le=MAX_LEEWAY_SECONDS)]
KeySet = Annotated[
    dict[str, Any], Meta(max_length=10, description='A JWK set: `{"keys": [...]}`, public keys only.')
]
Pem = Annotated[str, Meta(max_length=16384, pattern=r"^[^\x00]*$", description="One public key, as PEM.")]
Secret = Annotated[
    str,
    Meta(max_length=1024, pattern=r"^[^\x00]*$", description="Shared with an HS issuer; never shown again."),
]
READ = {"permission": Permission.ISSUERS_READ}
WRITE = {"permission": Permission.ISSUERS_WRITE}


class IssuerView(Struct, frozen=True, kw_only=True):
    """An issuer, without its secret."""

    id: str
    name: str
    issuer: str
    audience: str
    family: str
    jwks_uri: str | None
    allow_loopback_http: bool
    public_keys: dict[str, Any] | None
    has_secret: bool
    principal_claim: str
    name_claim: str
    groups_claim: str | None
    kind: str
    create_principals: bool
    replace_groups: bool
    max_age_seconds: int
    leeway_seconds: int
    planes: list[str]
    enabled: bool
    managed_by: str | None
    updated_at: datetime


class NewIssuer(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An issuer to take tokens of; exactly one source of its keys."""

    name: Name
    issuer: Address
    """Exactly the `iss` of its tokens."""
    audience: Audience
    """The value that `aud` of its tokens must hold."""
    family: FamilyName = "RS"
    jwks_uri: Address | None = None
    """Where it publishes its keys: https, fetched without following redirects."""
    allow_loopback_http: bool = False
    """Lets jwks_uri be plain http on this machine."""
    public_keys: KeySet | None = None
    public_key_pem: Pem | None = None
    secret: Secret | None = None
    principal_claim: Claim = "sub"
    """The claim that says who it is: one that is never given to another. Paths have dots between."""
    name_claim: Claim = "sub"
    """The claim that names principals created on first use."""
    groups_claim: Claim | None = None
    """The claim that lists groups by name; those that do not exist here count for nothing."""
    kind: PrincipalKindName = "user"
    create_principals: bool = False
    """Creates a principal on the first use of a subject; off: an administrator links them."""
    replace_groups: bool = False
    """Claimed groups stand in for membership here, rather than add to it."""
    max_age_seconds: Age = MAX_AGE_SECONDS
    leeway_seconds: Leeway = MAX_LEEWAY_SECONDS
    planes: Planes = field(default_factory=lambda: ["data", "control"])
    enabled: bool = True

    def __repr__(self) -> str:
        return f"NewIssuer(name={self.name!r})"


class IssuerChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to change of an issuer; what is left out stays. A new source of keys replaces the old one."""

    name: Name | UnsetType = UNSET
    audience: Audience | UnsetType = UNSET
    jwks_uri: Address | UnsetType | None = UNSET
    allow_loopback_http: bool | UnsetType = UNSET
    public_keys: KeySet | UnsetType | None = UNSET
    public_key_pem: Pem | UnsetType | None = UNSET
    secret: Secret | UnsetType | None = UNSET
    principal_claim: Claim | UnsetType = UNSET
    name_claim: Claim | UnsetType = UNSET
    groups_claim: Claim | UnsetType | None = UNSET
    kind: PrincipalKindName | UnsetType = UNSET
    create_principals: bool | UnsetType = UNSET
    replace_groups: bool | UnsetType = UNSET
    max_age_seconds: Age | UnsetType = UNSET
    leeway_seconds: Leeway | UnsetType = UNSET
    planes: Planes | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET

    def __repr__(self) -> str:
        return "IssuerChange()"


class Issuers(Controller):
    """Issuers of tokens."""

    path = "/issuers"
    tags = ("Identity",)

    @get("/", opt=READ, summary="List issuers, in order of id")
    async def list_all(
        self, admin: NamedDependency[Admin], after: After = None, size: Size = 50
    ) -> Page[IssuerView]:
        """Disabled ones included."""
        return await admin.listed(_view, issuers, after=after, size=size)

    @post("/", opt=WRITE, summary="Take tokens of an issuer")
    async def create(self, admin: NamedDependency[Admin], data: JSONBody[NewIssuer]) -> Response[IssuerView]:
        """Its tokens are taken by every worker within a second."""
        async with admin.change() as change:
            row = await create_issuer(change, admin.sealing, _values(data))
        return versioned(row, _view(row), status_code=201)

    @get("/{issuer_id:uuid}", opt=READ, summary="Read an issuer")
    async def read(self, admin: NamedDependency[Admin], issuer_id: FromPath[UUID]) -> Response[IssuerView]:
        """Answers its version as `ETag`; never its secret."""
        row = await admin.read(issuers, issuer_id, "issuer")
        return versioned(row, _view(row))

    @patch("/{issuer_id:uuid}", opt=WRITE, summary="Change an issuer")
    async def update(
        self,
        admin: NamedDependency[Admin],
        issuer_id: FromPath[UUID],
        data: JSONBody[IssuerChange],
        if_match: IfMatch = None,
    ) -> Response[IssuerView]:
        """Its tokens are verified again, by what it says now, within a second."""
        async with admin.revising(issuers, issuer_id, "issuer", if_match) as (change, before):
            row = await update_issuer(change, admin.sealing, before, _values(data))
        return versioned(row, _view(row))

    @delete("/{issuer_id:uuid}", opt=WRITE, summary="Take tokens of an issuer no more")
    async def remove(
        self, admin: NamedDependency[Admin], issuer_id: FromPath[UUID], if_match: IfMatch = None
    ) -> None:
        """Its tokens are refused within a second; the principals that it knows stay."""
        async with admin.revising(issuers, issuer_id, "issuer", if_match) as (change, before):
            await delete_issuer(change, before)


def _values(data: NewIssuer | IssuerChange) -> dict[str, Any]:
    values = set_fields(data)
    if "planes" in values:
        values["planes"] = sorted(set(values["planes"]))
    return values


def _view(row: Row) -> IssuerView:
    shown = {
        name: row[name] for name in IssuerView.__struct_fields__ if name not in ("has_secret", "updated_at")
    }
    return IssuerView(**shown, has_secret=row["secret_sealed"] is not None, updated_at=row["valid_from"])
