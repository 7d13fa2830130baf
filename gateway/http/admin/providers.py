"""Providers of models: where they are, and the credentials that pay for calls to them.

A credential is written and never read: an answer shows its last four characters at most. It is for one address, and a
change of address erases it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

from litestar import Controller, Response, delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import UNSET, Meta, Struct, UnsetType

from engines.providers import PROVIDERS
from gateway.errors import BadRequest
from gateway.http.admin.access import Admin
from gateway.http.admin.versions import (
    After,
    IfMatch,
    Name,
    Page,
    Size,
    set_fields,
    versioned,
)
from gateway.providers.adapters import provider_address
from gateway.providers.secrets import FILE, VARIABLE
from gateway.security.addresses import AddressRefused
from gateway.store.providers import (
    Credential,
    create_provider,
    delete_provider,
    erase_credential,
    set_credential,
    update_provider,
)
from gateway.store.reading import Row
from gateway.store.tables.providers import providers
from policies.administration import Permission

READ = {"permission": Permission.PROVIDERS_READ}
WRITE = {"permission": Permission.PROVIDERS_WRITE}
Kind = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}$", examples=["anthropic"])]
BaseUrl = Annotated[
    str,
    Meta(
        max_length=512,
        description="https; plain http and private hosts only where WEIGHBRIDGE_PROVIDER_HOSTS lists the host.",
        examples=["https://api.anthropic.com/v1"],
    ),
]
Secret = Annotated[str, Meta(min_length=1, max_length=8192, pattern=r"^[!-~]+$")]


class NewCredential(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A credential: exactly one of itself, a variable's name and a file's name."""

    secret: Secret | None = None
    """Stored sealed; for Amazon Bedrock `ACCESSKEYID:SECRET`, with `:TOKEN` for a session's, or an API key."""
    environment: Annotated[str, Meta(max_length=96)] | None = None
    """A variable of the workers, named WEIGHBRIDGE_CREDENTIAL_..."""
    file: Annotated[str, Meta(max_length=128)] | None = None
    """A file in the credentials' folder (WEIGHBRIDGE_CREDENTIAL_DIR); read again when it changes."""
    keep_seconds: Annotated[int, Meta(ge=0, le=604_800)] = 3600
    """How long the stored credential before still counts, where the provider refuses the new one."""

    def __repr__(self) -> str:
        return "NewCredential()"


class ProviderView(Struct, frozen=True, kw_only=True):
    """A provider, without its credential."""

    id: str
    name: str
    provider: str
    base_url: str
    credential: str
    """Where it is: `none`, `stored`, `environment` or `file`."""
    reference: str | None
    """Name of the variable or of the file."""
    hint: str | None
    """The last four characters of a stored one."""
    credential_version: int
    managed_by: str | None
    updated_at: datetime


class NewProvider(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A provider to add."""

    name: Name
    provider: Kind
    base_url: BaseUrl | None = None
    """Left out: where everybody finds it, for providers with one address."""
    credential: NewCredential | None = None


class ProviderChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to change of a provider; another address erases its credential."""

    name: Name | UnsetType = UNSET
    base_url: BaseUrl | UnsetType = UNSET


class Providers(Controller):
    """Providers."""

    path = "/providers"
    tags = ("Providers",)

    @get("/", opt=READ, summary="List providers, in order of id")
    async def list_all(
        self, admin: NamedDependency[Admin], after: After = None, size: Size = 50
    ) -> Page[ProviderView]:
        """No credential is ever listed."""
        return await admin.listed(_view, providers, after=after, size=size)

    @post("/", opt=WRITE, summary="Add a provider")
    async def create(
        self, admin: NamedDependency[Admin], data: JSONBody[NewProvider]
    ) -> Response[ProviderView]:
        """Served entities name it by its id (`credential_id`)."""
        kind = PROVIDERS.get(data.provider)
        if kind is None:
            raise BadRequest(
                f"There is no provider {data.provider!r}; it is one of {', '.join(PROVIDERS)}.",
                param="provider",
            )
        base_url = data.base_url or kind.base_url
        if base_url is None:
            raise BadRequest(f"A provider {data.provider!r} takes a base_url.", param="base_url")
        check_address(admin, base_url)
        credential = None if data.credential is None else _credential(data.credential)
        values = {"name": data.name, "provider": data.provider, "base_url": base_url}
        async with admin.change() as change:
            row = await create_provider(change, admin.sealing, values, credential)
        return versioned(row, _view(row), status_code=201)

    @get("/{provider_id:uuid}", opt=READ, summary="Read a provider")
    async def read(
        self, admin: NamedDependency[Admin], provider_id: FromPath[UUID]
    ) -> Response[ProviderView]:
        """Answers its version as `ETag`."""
        row = await admin.read(providers, provider_id, "provider")
        return versioned(row, _view(row))

    @patch("/{provider_id:uuid}", opt=WRITE, summary="Change a provider")
    async def update(
        self,
        admin: NamedDependency[Admin],
        provider_id: FromPath[UUID],
        data: JSONBody[ProviderChange],
        if_match: IfMatch = None,
    ) -> Response[ProviderView]:
        """Another address erases the credential: it was given for the old one."""
        values = set_fields(data)
        if "base_url" in values:
            check_address(admin, values["base_url"])
        async with admin.revising(providers, provider_id, "provider", if_match) as (change, before):
            row = await update_provider(change, before, values)
        return versioned(row, _view(row))

    @delete("/{provider_id:uuid}", opt=WRITE, summary="Delete a provider")
    async def remove(
        self, admin: NamedDependency[Admin], provider_id: FromPath[UUID], if_match: IfMatch = None
    ) -> None:
        """Only one that no served entity is called through; its credential goes with it."""
        async with admin.revising(providers, provider_id, "provider", if_match) as (change, before):
            await delete_provider(change, before)

    @put("/{provider_id:uuid}/credential", opt=WRITE, summary="Set or rotate a provider's credential")
    async def set_credential(
        self,
        admin: NamedDependency[Admin],
        provider_id: FromPath[UUID],
        data: JSONBody[NewCredential],
        if_match: IfMatch = None,
    ) -> Response[ProviderView]:
        """Every worker tells the new one within a second; the one before counts for `keep_seconds` more."""
        credential = _credential(data)
        keep = timedelta(seconds=data.keep_seconds)
        async with admin.revising(providers, provider_id, "provider", if_match or "*") as (change, before):
            row = await set_credential(change, admin.sealing, before, credential, keep=keep)
        return versioned(row, _view(row))

    @delete(
        "/{provider_id:uuid}/credential",
        opt=WRITE,
        status_code=200,
        summary="Erase a provider's credential",
    )
    async def erase_credential(
        self, admin: NamedDependency[Admin], provider_id: FromPath[UUID], if_match: IfMatch = None
    ) -> Response[ProviderView]:
        """All of its versions, at once."""
        async with admin.revising(providers, provider_id, "provider", if_match or "*") as (change, before):
            row = await erase_credential(change, before)
        return versioned(row, _view(row))


def check_address(admin: Admin, url: str) -> None:
    """Raise BadRequest for an address at which no provider may be."""
    try:
        provider_address(url, admin.provider_hosts)
    except AddressRefused as error:
        raise BadRequest(f"No provider can be there: {error}.", param="base_url") from error


def _credential(data: NewCredential) -> Credential:
    given = [data.secret, data.environment, data.file]
    if sum(each is not None for each in given) != 1:
        raise BadRequest("A credential is exactly one of secret, environment and file.", param="credential")
    if data.secret is not None:
        return Credential("stored", secret=data.secret)
    if data.environment is not None:
        if VARIABLE.fullmatch(data.environment) is None:
            raise BadRequest(
                "The variable's name begins with WEIGHBRIDGE_CREDENTIAL_, in capitals.", param="environment"
            )
        return Credential("environment", reference=data.environment)
    assert data.file is not None
    if FILE.fullmatch(data.file) is None:
        raise BadRequest("It takes the name of a file, without a path.", param="file")
    return Credential("file", reference=data.file)


def _view(row: Row) -> ProviderView:
    return ProviderView(
        id=row["id"],
        name=row["name"],
        provider=row["provider"],
        base_url=row["base_url"],
        credential=row["source"],
        reference=row["reference"],
        hint=row["hint"],
        credential_version=row["credential_version"],
        managed_by=row["managed_by"],
        updated_at=row["valid_from"],
    )
