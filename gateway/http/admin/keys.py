"""Anybody's API keys, for administrators: make, list, rotate, revoke.

A key is at most as wide as the one it is made with.
"""

from __future__ import annotations

from uuid import UUID

from litestar import Controller, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody

from gateway.http.admin.access import Admin
from gateway.http.admin.key_shapes import (
    CreatedKey,
    KeyRequest,
    KeyView,
    RotatedKey,
    Rotation,
    require_mintable,
    require_rotatable,
    shown,
    shown_once,
)
from gateway.http.admin.versions import After, IfMatch, Page, Size, optional_id, versioned
from gateway.store.api_keys import NewKey, create_key, last_uses, revoke_key, rotate_key
from gateway.store.reading import current, page
from gateway.store.tables.identity import api_keys
from policies.administration import Permission

READ = {"permission": Permission.KEYS_READ}
WRITE = {"permission": Permission.KEYS_WRITE}


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
        return Page([shown(row, used) for row in found], following)

    @post("/", opt=WRITE, summary="Make a key")
    async def create(self, admin: NamedDependency[Admin], data: JSONBody[KeyRequest]) -> Response[CreatedKey]:
        """The answer is the only place where the key is ever shown."""
        planes, batch = frozenset[str](data.planes), data.priority == "batch"
        confined = None if data.endpoints is None else tuple(str(each) for each in data.endpoints)
        require_mintable(admin, planes, None if confined is None else frozenset(confined), batch=batch)
        wanted = NewKey(
            principal_id=str(data.principal_id),
            name=data.name,
            expires_at=data.expires_at,
            endpoints=confined,
            planes=planes,
            batch=batch,
            replaces=optional_id(data.replaces),
            overlap_until=data.overlap_until,
        )
        async with admin.change() as change:
            row, text = await create_key(change, admin.peppers, wanted)
        return shown_once(row, CreatedKey(key=text, details=shown(row, {})))

    @get("/{key_id:uuid}", opt=READ, summary="Read about a key")
    async def read(self, admin: NamedDependency[Admin], key_id: FromPath[UUID]) -> Response[KeyView]:
        """Answers its version as `ETag`; never the key itself."""
        async with admin.reading() as connection:
            row = await current(connection, api_keys, str(key_id), "api_key")
            used = await last_uses(connection, [row["id"]])
        return versioned(row, shown(row, used))

    @post("/{key_id:uuid}/rotate", opt=WRITE, summary="Rotate a key")
    async def rotate(
        self,
        admin: NamedDependency[Admin],
        key_id: FromPath[UUID],
        data: JSONBody[Rotation],
        if_match: IfMatch = None,
    ) -> Response[RotatedKey]:
        """A new key with the name, scopes, priority and lifetime of the old one, which still works for the overlap.

        Both share the limits and budgets that name either.
        """
        async with admin.revising(api_keys, key_id, "api_key", if_match) as (change, before):
            require_rotatable(admin, before)
            row, replaced, text = await rotate_key(change, admin.peppers, before, data.overlap)
        return shown_once(row, RotatedKey(key=text, details=shown(row, {}), replaced=shown(replaced, {})))

    @delete("/{key_id:uuid}", opt=WRITE, status_code=200, summary="Revoke a key")
    async def revoke(
        self, admin: NamedDependency[Admin], key_id: FromPath[UUID], if_match: IfMatch = None
    ) -> Response[KeyView]:
        """Refused by every worker within a second, for good. It stays in the list, so that its use keeps a name."""
        async with admin.revising(api_keys, key_id, "api_key", if_match) as (change, before):
            row = await revoke_key(change, before)
        return versioned(row, shown(row, {}))
