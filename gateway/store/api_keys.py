"""Make, rotate and revoke API keys; the text of a key leaves here once, at its making.

A key is never deleted: a revoked one stays, so that what was done with it keeps its name. Keys of one line (rotated from
one another, or made by their owner with one another) share the limits and budgets of the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import BadRequest, Conflict
from gateway.security.keys import Peppers, mint
from gateway.store.changes import Change
from gateway.store.reading import Row
from gateway.store.tables.catalog import endpoints
from gateway.store.tables.identity import api_key_uses, api_keys, principals
from policies.principal import Caller

MOST_IN_FORCE = 100
"""Keys of one principal that may work at the same time, of those that it makes itself."""
MOST_A_DAY = 200
"""Keys that a principal may make itself within a day."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """What is asked of a new key."""

    principal_id: str
    name: str = ""
    expires_at: datetime | None = None
    endpoints: tuple[str, ...] | None = None
    """Ids of the endpoints that it is confined to; None means no confinement."""
    planes: frozenset[str] = frozenset({"data", "control"})
    batch: bool = False
    """For work that nobody waits for."""
    counts_as: str | None = None
    """Key whose limits and budgets it shares; a key that replaces another shares that one's."""
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
    counts_as = wanted.counts_as
    if wanted.replaces is not None:
        replaced = await _let_expire(change, wanted, wanted.replaces)
        counts_as = line_of(replaced)
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
            "priority": "batch" if wanted.batch else "interactive",
            "counts_as": counts_as,
            "replaces": wanted.replaces,
            "created_at": change.at,
            "created_by": change.actor.id,
        },
    )
    return row, minted.text


async def rotate_key(
    change: Change, peppers: Peppers, before: Row, overlap: timedelta, *, at_most: datetime | None = None
) -> tuple[Row, Row, str]:
    """A new key like `before`, which ends after the overlap; answers both rows and the new key's text.

    Where the old key had an end, the new one lives as long again, never beyond `at_most`.
    """
    if before["revoked_at"] is not None or (
        before["expires_at"] is not None and before["expires_at"] <= change.at
    ):
        raise Conflict("This key works no more, so there is nothing to take over; make a new one.")
    ends = before["expires_at"]
    if ends is not None:
        ends = change.at + (ends - before["created_at"])
    if at_most is not None:
        ends = at_most if ends is None else min(ends, at_most)
    after, text = await create_key(
        change,
        peppers,
        NewKey(
            principal_id=before["principal_id"],
            name=before["name"],
            expires_at=ends,
            endpoints=None if before["endpoints"] is None else tuple(before["endpoints"]),
            planes=frozenset(before["planes"]),
            batch=before["priority"] == "batch",
            replaces=before["id"],
            overlap_until=change.at + overlap,
        ),
    )
    return after, await change.current(api_keys, before["id"], "api_key"), text


async def revoke_key(change: Change, before: Row) -> Row:
    """Revoke a key, for good; a second time changes nothing."""
    if before["revoked_at"] is not None:
        return before
    return await change.revise(api_keys, "api_key", before, action="revoke", revoked_at=change.at)


async def require_room(change: Change, principal_id: str) -> None:
    """Raise Conflict where a principal has made as many keys as it may make itself."""
    held = await change.rows(api_keys, api_keys.c.principal_id == principal_id)
    in_force = sum(
        row["revoked_at"] is None and (row["expires_at"] is None or row["expires_at"] > change.at)
        for row in held
    )
    if in_force >= MOST_IN_FORCE:
        raise Conflict(
            f"You hold {in_force} keys that work; revoke one before you make another.", code="too_many_keys"
        )
    day = change.at - timedelta(days=1)
    if sum(row["created_at"] > day and row["created_by"] == principal_id for row in held) >= MOST_A_DAY:
        raise Conflict(
            f"You made {MOST_A_DAY} keys within a day; wait, or use one of them.", code="too_many_keys"
        )


def line_of(key: Row) -> str:
    """The key whose limits and budgets this one shares: the first of its line."""
    return key["counts_as"] or key["id"]


def with_key(caller: Caller, key: Row) -> Caller:
    """The caller as it is with this key."""
    return replace(
        caller,
        key_id=key["id"],
        endpoints=None if key["endpoints"] is None else frozenset(key["endpoints"]),
        planes=frozenset(key["planes"]),
        batch=key["priority"] == "batch",
        counts_as=key["counts_as"],
    )


async def _let_expire(change: Change, wanted: NewKey, replaced_id: str) -> Row:
    replaced = await change.current(api_keys, replaced_id, "api_key")
    if replaced["principal_id"] != wanted.principal_id:
        raise BadRequest("A key can only be replaced by one of the same principal.", param="replaces")
    if replaced["revoked_at"] is not None:
        raise Conflict("The key to replace is revoked; make a new one that replaces none.")
    ends = max(wanted.overlap_until or change.at, change.at)
    if replaced["expires_at"] is None or replaced["expires_at"] > ends:
        await change.revise(api_keys, "api_key", replaced, action="let expire", expires_at=ends)
    return replaced


async def last_uses(connection: AsyncConnection, ids: list[str]) -> Mapping[str, datetime]:
    """When each of these keys was last used, for those that were."""
    found = await connection.execute(select(api_key_uses).where(api_key_uses.c.key_id.in_(ids)))
    return {row.key_id: row.last_used_at for row in found}
