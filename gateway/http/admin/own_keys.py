"""Everybody's own API keys: make, list, rotate, revoke, without an administrator.

A key made here reaches no further than the credential it is made with, in scopes, in time and in what it may use: it
shares that key's limits and budgets. Of others' keys nothing is told, not even that they are there.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from litestar import Controller, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import BadRequest, NotFound
from gateway.http.admin.access import Admin
from gateway.http.admin.key_shapes import (
    CreatedKey,
    KeyView,
    OwnKey,
    RotatedKey,
    Rotation,
    require_mintable,
    require_rotatable,
    shown,
    shown_once,
)
from gateway.http.admin.versions import After, IfMatch, Page, Size, optional_id, require_match, versioned
from gateway.store.api_keys import (
    NewKey,
    create_key,
    last_uses,
    line_of,
    require_room,
    revoke_key,
    rotate_key,
)
from gateway.store.reading import Row, current, page, rows
from gateway.store.tables.identity import api_keys
from policies.administration import Permission

OWN = {"permission": Permission.SELF_KEYS}


class OwnKeys(Controller):
    """The caller's own API keys."""

    path = "/me/keys"
    tags = ("Keys",)

    @get("/", opt=OWN, summary="List your keys, in order of id")
    async def list_all(
        self, admin: NamedDependency[Admin], after: After = None, size: Size = 50
    ) -> Page[KeyView]:
        """Revoked and expired ones included."""
        mine = api_keys.c.principal_id == admin.caller.principal.id
        async with admin.reading() as connection:
            found, following = await page(connection, api_keys, mine, after=optional_id(after), size=size)
            used = await last_uses(connection, [row["id"] for row in found])
        return Page([shown(row, used) for row in found], following)

    @post("/", opt=OWN, summary="Make a key for yourself")
    async def create(self, admin: NamedDependency[Admin], data: JSONBody[OwnKey]) -> Response[CreatedKey]:
        """The answer is the only place where the key is ever shown. It ends with the key it is made with, or before."""
        planes, batch = frozenset[str](data.planes), data.priority == "batch"
        confined = None if data.endpoints is None else tuple(str(each) for each in data.endpoints)
        require_mintable(admin, planes, None if confined is None else frozenset(confined), batch=batch)
        who = admin.caller.principal.id
        async with admin.change() as change:
            await require_room(change, who)
            maker = await _presented(admin, change.connection)
            wanted = NewKey(
                principal_id=who,
                name=data.name,
                expires_at=_within(data.expires_at, _end(maker)),
                endpoints=confined,
                planes=planes,
                batch=batch,
                counts_as=None if maker is None else line_of(maker),
            )
            row, text = await create_key(change, admin.peppers, wanted)
        return shown_once(row, CreatedKey(key=text, details=shown(row, {})))

    @get("/{key_id:uuid}", opt=OWN, summary="Read about a key of yours")
    async def read(self, admin: NamedDependency[Admin], key_id: FromPath[UUID]) -> Response[KeyView]:
        """Answers its version as `ETag`; never the key itself."""
        async with admin.reading() as connection:
            row = await _own(admin, connection, key_id)
            used = await last_uses(connection, [row["id"]])
        return versioned(row, shown(row, used))

    @post("/{key_id:uuid}/rotate", opt=OWN, summary="Rotate a key of yours")
    async def rotate(
        self,
        admin: NamedDependency[Admin],
        key_id: FromPath[UUID],
        data: JSONBody[Rotation],
        if_match: IfMatch = None,
    ) -> Response[RotatedKey]:
        """As an administrator does it; the new key ends with the key it is rotated with, or before."""
        async with admin.change() as change:
            before = await _own(admin, change.connection, key_id)
            require_match(before, if_match)
            require_rotatable(admin, before)
            await require_room(change, before["principal_id"])
            at_most = _end(await _presented(admin, change.connection))
            row, replaced, text = await rotate_key(
                change, admin.peppers, before, data.overlap, at_most=at_most
            )
        return shown_once(row, RotatedKey(key=text, details=shown(row, {}), replaced=shown(replaced, {})))

    @delete("/{key_id:uuid}", opt=OWN, status_code=200, summary="Revoke a key of yours")
    async def revoke(
        self, admin: NamedDependency[Admin], key_id: FromPath[UUID], if_match: IfMatch = None
    ) -> Response[KeyView]:
        """Refused by every worker within a second, for good; the key you send may be the one."""
        async with admin.change() as change:
            before = await _own(admin, change.connection, key_id)
            require_match(before, if_match)
            row = await revoke_key(change, before)
        return versioned(row, shown(row, {}))


async def _own(admin: Admin, connection: AsyncConnection, key_id: UUID) -> Row:
    found = await rows(
        connection,
        api_keys,
        api_keys.c.id == str(key_id),
        api_keys.c.principal_id == admin.caller.principal.id,
    )
    if not found:
        raise NotFound(f"You have no API key with id {str(key_id)!r}.")
    return found[0]


async def _presented(admin: Admin, connection: AsyncConnection) -> Row | None:
    """The key behind the request, also where a short-lived token stands for it; None for an issuer's token."""
    presented = admin.caller.key_id
    return None if presented is None else await current(connection, api_keys, presented, "api_key")


def _end(maker: Row | None) -> datetime | None:
    return None if maker is None else maker["expires_at"]


def _within(wanted: datetime | None, end: datetime | None) -> datetime | None:
    """When the new key ends: where nothing was asked for, with the key it is made with."""
    if end is None:
        return wanted
    if wanted is not None and wanted > end:
        raise BadRequest(
            f"The key you send ends at {end.isoformat()}, and none made with it ends later.",
            param="expires_at",
        )
    return wanted or end
