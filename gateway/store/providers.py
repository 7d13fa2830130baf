"""Change the providers that this deployment uses, and what pays for calls to them.

A credential is for one address: a change of address erases it. Rotation keeps the version before for a while, so that
workers and the provider may see the new one at their own pace. What is secret is sealed before it is written and
never read back by any route.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import delete, insert, update

from gateway.errors import BadRequest, Conflict
from gateway.security.addresses import AddressRefused, read_address
from gateway.security.sealing import Sealing, provider_subject
from gateway.store.changes import Change
from gateway.store.reading import Row
from gateway.store.tables.catalog import served_entities
from gateway.store.tables.providers import provider_secrets, providers

KIND = "provider"
Source = Literal["none", "stored", "environment", "file"]
_HINT = 4


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential as it is given: itself, or the name of the variable or file that holds it."""

    source: Source
    secret: str = ""
    reference: str | None = None

    def __repr__(self) -> str:
        return f"Credential(source={self.source!r})"


async def create_provider(
    change: Change, sealing: Sealing, values: Mapping[str, Any], credential: Credential | None = None
) -> Row:
    """Add a provider; `values` hold its name, provider and base_url."""
    wanted = {"id": change.new_id(), **values}
    if credential is not None:
        wanted |= await _placed(change, sealing, wanted, credential, 1)
    return await change.add(providers, KIND, wanted)


async def update_provider(change: Change, before: Row, values: Mapping[str, Any]) -> Row:
    """Change its name or its address; another address erases the credential."""
    wanted = dict(values)
    if wanted.get("base_url", before["base_url"]) != before["base_url"]:
        await _erase(change, before["id"])
        wanted |= {"source": "none", "reference": None, "hint": None}
    return await change.revise(providers, KIND, before, **wanted)


async def replace_provider(
    change: Change,
    sealing: Sealing,
    before: Row,
    values: Mapping[str, Any],
    credential: Credential | None,
) -> Row:
    """Make its name and address these, and its credential this one or none, in one version."""
    wanted = {"base_url": before["base_url"], **values}
    given = ("none", None) if credential is None else (credential.source, credential.reference)
    held = (before["source"], before["reference"])
    if wanted["base_url"] != before["base_url"] or given != held or given[0] == "stored":
        await _erase(change, before["id"])
        wanted |= {"source": "none", "reference": None, "hint": None}
        if credential is not None:
            version = before["credential_version"] + 1
            wanted |= await _placed(change, sealing, {**before, **wanted}, credential, version)
    return await change.revise(providers, KIND, before, **wanted)


async def set_credential(
    change: Change,
    sealing: Sealing,
    before: Row,
    credential: Credential,
    *,
    keep: timedelta = timedelta(0),
) -> Row:
    """Give it a credential, or another one; the stored one before still counts for `keep`."""
    identity = before["id"]
    change.require_own(KIND, before)
    held, mine = before["credential_version"], provider_secrets.c.provider_id == identity
    if credential.source != "stored" or keep <= timedelta(0):
        await _erase(change, identity)
    else:
        older = delete(provider_secrets).where(mine, provider_secrets.c.version < held)
        await change.connection.execute(older)
        await change.connection.execute(update(provider_secrets).where(mine).values(ends_at=change.at + keep))
    placed = await _placed(change, sealing, before, credential, held + 1)
    return await change.revise(providers, KIND, before, action="set_credential", **placed)


async def erase_credential(change: Change, before: Row) -> Row:
    """Take its credential away at once."""
    change.require_own(KIND, before)
    await _erase(change, before["id"])
    return await change.revise(
        providers, KIND, before, action="erase_credential", source="none", reference=None, hint=None
    )


async def delete_provider(change: Change, before: Row) -> None:
    """Delete a provider that no served entity is called through, and its credential with it."""
    used = await change.rows(served_entities, served_entities.c.credential_id == before["id"])
    if used:
        raise Conflict(
            f"The served entity {used[0]['name']!r} is called through this provider; change that one first."
        )
    await _erase(change, before["id"])
    await change.remove(providers, KIND, before)


async def require_fitting(change: Change, entity: Mapping[str, Any]) -> None:
    """Raise BadRequest unless the entity's provider and all of its addresses are those that its credential is for."""
    identity = entity["credential_id"]
    found = await change.rows(providers, providers.c.id == identity)
    if not found:
        raise BadRequest(f"There is no provider with id {identity!r}.", param="served_entities")
    held = found[0]
    if held["provider"] != entity["provider"]:
        raise BadRequest(
            f"{held['name']!r} is of {held['provider']!r}, and entity {entity['name']!r} of {entity['provider']!r}.",
            param="served_entities",
        )
    replicas = entity.get("settings", {}).get("rules", {}).get("replicas", ())
    for address in (entity["base_url"], *replicas):
        if address is not None and not same_origin(address, held["base_url"]):
            raise BadRequest(
                f"The credential of {held['name']!r} is for {held['base_url']}; entity {entity['name']!r} is elsewhere.",
                param="served_entities",
            )


def same_origin(one: str, other: str) -> bool:
    """Whether two addresses are of the same scheme, host and port; what cannot be read is the same as nothing."""
    try:
        return read_address(one, _ANY).origin == read_address(other, _ANY).origin
    except AddressRefused:
        return False


class _Any(frozenset[str]):
    """Every host is listed: only the parts of an address are of interest."""

    def __contains__(self, item: object) -> bool:
        return True


_ANY = _Any()


async def _placed(
    change: Change, sealing: Sealing, provider: Mapping[str, Any], credential: Credential, version: int
) -> dict[str, Any]:
    """The columns that say where the credential is, once it is there."""
    if credential.source != "stored":
        return {"source": credential.source, "reference": credential.reference, "hint": None}
    subject = provider_subject(provider["id"], provider["base_url"])
    sealed = sealing.seal(credential.secret.encode(), subject)
    await change.connection.execute(
        insert(provider_secrets).values(provider_id=provider["id"], version=version, secret_sealed=sealed)
    )
    # A short one would be half told by its end.
    hint = credential.secret[-_HINT:] if len(credential.secret) >= 4 * _HINT else None
    return {"source": "stored", "reference": None, "hint": hint, "credential_version": version}


async def _erase(change: Change, provider_id: str) -> None:
    await change.connection.execute(
        delete(provider_secrets).where(provider_secrets.c.provider_id == provider_id)
    )
