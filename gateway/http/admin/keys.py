"""API keys: make, list, revoke.

A key's text is in the answer that makes it and nowhere else, ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from litestar import Controller, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody
from msgspec import Meta, Struct, field

from gateway.errors import Forbidden
from gateway.http.admin.access import Admin
from gateway.http.admin.versions import (
    After,
    IfMatch,
    Moment,
    Page,
    Size,
    optional_id,
    require_match,
    versioned,
)
from gateway.store.api_keys import NewKey, create_key, last_uses, revoke_key
from gateway.store.reading import Row, current, page
from gateway.store.tables.identity import api_keys
from policies.administration import Permission, may_mint
from policies.decision import Deny

Plane = Literal["data", "control"]
READ = {"permission": Permission.KEYS_READ}
WRITE = {"permission": Permission.KEYS_WRITE}


class KeyView(Struct, frozen=True, kw_only=True):
    """A key, without its secret."""

    id: str
    principal_id: str
    name: str
    prefix: str
    """How the key's text begins, to recognise it by."""
    planes: list[str]
    endpoints: list[str] | None
    """Ids of the endpoints that it is confined to; null: no confinement."""
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """To the minute."""
    replaces: str | None


class CreatedKey(Struct, frozen=True, kw_only=True):
    """A new key and, this once, its text."""

    key: Annotated[str, Meta(description="The key itself: keep it now, it cannot be shown again.")]
    details: KeyView

    def __repr__(self) -> str:
        return f"CreatedKey(details={self.details!r})"


class KeyRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key to make."""

    principal_id: UUID
    name: Annotated[str, Meta(max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$", examples=["notebook"])] = ""
    expires_at: Moment | None = None
    planes: Annotated[list[Plane], Meta(min_length=1, max_length=2)] = field(
        default_factory=lambda: ["data", "control"]
    )
    endpoints: Annotated[list[UUID], Meta(max_length=1000)] | None = None
    """Confines the key to these endpoints."""
    replaces: UUID | None = None
    """Key that this one takes over from."""
    overlap_until: Moment | None = None
    """Until when the replaced key still works; at once where left out."""


class Keys(Controller):
    """API keys."""

    path = "/keys"
    tags = ("Keys",)

    @get("/", opt=READ, summary="List keys, in order of id")
    async def list_all(
        self,
        admin: NamedDependency[Admin],
        after: After = None,
        size: Size = 50,
        principal_id: FromQuery[UUID | None] = None,
    ) -> Page[KeyView]:
        """Revoked and expired ones included; `principal_id` lists one principal's."""
        conditions = [] if principal_id is None else [api_keys.c.principal_id == str(principal_id)]
        async with admin.reading() as connection:
            found, following = await page(
                connection, api_keys, *conditions, after=optional_id(after), size=size
            )
            used = await last_uses(connection, [row["id"] for row in found])
        return Page([_view(row, used) for row in found], following)

    @post("/", opt=WRITE, summary="Make a key")
    async def create(self, admin: NamedDependency[Admin], data: JSONBody[KeyRequest]) -> Response[CreatedKey]:
        """The answer is the only place where the key is ever shown."""
        planes = frozenset[str](data.planes)
        confined = None if data.endpoints is None else tuple(str(each) for each in data.endpoints)
        match may_mint(admin.caller, planes, None if confined is None else frozenset(confined)):
            case Deny(code=code, reason=reason):
                raise Forbidden(reason, code=code)
            case _:
                pass
        wanted = NewKey(
            principal_id=str(data.principal_id),
            name=data.name,
            expires_at=data.expires_at,
            endpoints=confined,
            planes=planes,
            replaces=optional_id(data.replaces),
            overlap_until=data.overlap_until,
        )
        async with admin.change() as change:
            row, text = await create_key(change, admin.peppers, wanted)
        answer = versioned(row, CreatedKey(key=text, details=_view(row, {})), status_code=201)
        answer.headers["cache-control"] = "no-store"
        return answer

    @get("/{key_id:uuid}", opt=READ, summary="Read about a key")
    async def read(self, admin: NamedDependency[Admin], key_id: FromPath[UUID]) -> Response[KeyView]:
        """Answers its version as `ETag`; never the key itself."""
        async with admin.reading() as connection:
            row = await current(connection, api_keys, str(key_id), "api_key")
            used = await last_uses(connection, [row["id"]])
        return versioned(row, _view(row, used))

    @delete("/{key_id:uuid}", opt=WRITE, status_code=200, summary="Revoke a key")
    async def revoke(
        self, admin: NamedDependency[Admin], key_id: FromPath[UUID], if_match: IfMatch = None
    ) -> Response[KeyView]:
        """Refused by every worker within a second, for good. It stays in the list, so that its use keeps a name."""
        async with admin.change() as change:
            before = await change.current(api_keys, str(key_id), "api_key")
            require_match(before, if_match)
            row = await revoke_key(change, before)
        return versioned(row, _view(row, {}))


def _view(row: Row, used: Mapping[str, datetime]) -> KeyView:
    return KeyView(
        id=row["id"],
        principal_id=row["principal_id"],
        name=row["name"],
        prefix=f"gk_live_{row['id_part']}",
        planes=row["planes"],
        endpoints=row["endpoints"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        last_used_at=used.get(row["id"]),
        replaces=row["replaces"],
    )
