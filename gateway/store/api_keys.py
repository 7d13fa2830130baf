"""Make and revoke API keys; the text of a key leaves here once, at its making.

A key is never deleted: a revoked one stays, so that what was done with it keeps its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import BadRequest, Conflict
from gateway.security.keys import Peppers, mint
from gateway.store.changes import Change
from gateway.store.reading import Row
from gateway.store.tables.catalog import endpoints
from gateway.store.tables.identity import api_key_uses, api_keys, principals


@dataclass(frozen=True, slots=True)
class NewKey:
    """What is asked of a new key."""

    principal_id: str
    name: str = ""
    expires_at: datetime | None = None
    endpoints: tuple[str, ...] | None = None
    """Ids of the endpoints that it is confined to; None means no confinement."""
    planes: frozenset[str] = frozenset({"data", "control"})
    replaces: str | None = None
    """Key that it takes over from, which then ends at `overlap_until`."""
    overlap_until: datetime | None = None


async def create_key(change: Change, peppers: Peppers, wanted: NewKey) -> tuple[Row, str]:
    """Make a key; answers its row and its text, which is kept nowhere."""
    owner = (await change.rows(principals, principals.c.id == wanted.principal_id)) or None
    if owner is None:
        raise BadRequest(f"There is no principal with id {wanted.principal_id!r}.", param="principal_id")
    if wanted.expires_at is not None and wanted.expires_at <= change.at:
        raise BadRequest("expires_at is in the past; give a later moment, or none.", param="expires_at")
    for endpoint in wanted.endpoints or ():
        if not await change.rows(endpoints, endpoints.c.id == endpoint):
            raise BadRequest(f"There is no endpoint with id {endpoint!r}.", param="endpoints")
    if wanted.replaces is not None:
        await _let_expire(change, wanted, wanted.replaces)
    minted = mint(peppers)
    row = await change.add(
        api_keys,
        "api_key",
        {
            "principal_id": wanted.principal_id,
            "name": wanted.name,
            "id_part": minted.id_part,
            "digest": minted.digest,
            "pepper_version": minted.pepper_version,
            "expires_at": wanted.expires_at,
            "endpoints": None if wanted.endpoints is None else sorted(set(wanted.endpoints)),
            "planes": sorted(wanted.planes),
            "replaces": wanted.replaces,
            "created_at": change.at,
            "created_by": change.actor.id,
        },
    )
    return row, minted.text


async def revoke_key(change: Change, before: Row) -> Row:
    """Revoke a key, for good; a second time changes nothing."""
    if before["revoked_at"] is not None:
        return before
    return await change.revise(api_keys, "api_key", before, action="revoke", revoked_at=change.at)


async def last_uses(connection: AsyncConnection, ids: list[str]) -> Mapping[str, datetime]:
    """When each of these keys was last used, for those that were."""
    found = await connection.execute(select(api_key_uses).where(api_key_uses.c.key_id.in_(ids)))
    return {row.key_id: row.last_used_at for row in found}


async def _let_expire(change: Change, wanted: NewKey, replaced_id: str) -> None:
    replaced = await change.current(api_keys, replaced_id, "api_key")
    if replaced["principal_id"] != wanted.principal_id:
        raise BadRequest("A key can only be replaced by one of the same principal.", param="replaces")
    if replaced["revoked_at"] is not None:
        raise Conflict("The key to replace is revoked; make a new one that replaces none.")
    ends = max(wanted.overlap_until or change.at, change.at)
    if replaced["expires_at"] is None or replaced["expires_at"] > ends:
        await change.revise(api_keys, "api_key", replaced, action="let expire", expires_at=ends)
