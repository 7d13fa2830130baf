"""Change what can be called: endpoints with their served entities, who may use them, and what they cost.

An endpoint's version covers its entities: whatever changes of them gives it a new one. Prices are only added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from engines.providers import PROVIDERS, RESPONSES_OPTION, option_fault, provider_named
from gateway.errors import BadRequest, NotFound
from gateway.store.changes import Change
from gateway.store.principals import MemberKind
from gateway.store.providers import require_fitting
from gateway.store.reading import Row
from gateway.store.tables import rules
from gateway.store.tables.catalog import endpoints, grants, prices, served_entities
from gateway.store.tables.identity import groups, principals
from gateway.store.throughput import delete_provisions_of

LevelName = Literal["CAN_VIEW", "CAN_QUERY", "CAN_MANAGE"]


@dataclass(frozen=True, slots=True)
class EntitySpec:
    """A served entity as it should be; compared by name with what is there."""

    name: str
    kind: Literal["local", "external"]
    provider: str
    model: str
    base_url: str | None = None
    traffic_percent: int = 100
    fallback_position: int | None = None
    rules: Mapping[str, Any] | None = None
    """How it is called, without defaults; None: as it is."""
    options: Mapping[str, Any] | None = None
    """What its provider needs beside the address (region, deployment, ...), no secret among it; None: as it is."""
    shown: Mapping[str, Any] | None = None
    """What has no meaning here and is shown again; None: as it is."""
    credential_id: str | None = None
    """A credential to call it with from now on; None: the one it has, unless its address or provider changes."""
    keeps_credential: bool = True
    """Whether None means that; False: no credential at all."""
    id: str | None = None
    """The id that it had before, where it comes back."""


async def create_endpoint(change: Change, values: Mapping[str, Any], entities: Sequence[EntitySpec]) -> Row:
    """Add an endpoint and what answers for it."""
    await _names_are_free(change, values, None)
    row = await change.add(
        endpoints,
        "endpoint",
        {
            **values,
            "creator_id": change.actor.id,
            "creator": change.actor.name,
            "created_at": change.at,
        },
    )
    await set_entities(change, row, entities)
    return row


async def update_endpoint(
    change: Change, before: Row, values: Mapping[str, Any], entities: Sequence[EntitySpec] | None
) -> Row:
    """Change an endpoint's own values and, where given, the whole set of its entities."""
    if "name" in values or "aliases" in values:
        names = {"name": before["name"], "aliases": before["aliases"], **values}
        await _names_are_free(change, names, before["id"])
    if entities is not None and await set_entities(change, before, entities):
        values = {**values, "config_version": before["config_version"] + 1}
    return await change.revise(endpoints, "endpoint", before, **values)


async def delete_endpoint(change: Change, before: Row) -> None:
    """Delete an endpoint with its entities, grants, limits and budgets."""
    of_endpoint = (
        (served_entities, "served_entity", served_entities.c.endpoint_id),
        (grants, "grant", grants.c.endpoint_id),
        (rules.limits, "limit", rules.limits.c.endpoint_id),
        (rules.limits, "limit", rules.limits.c.subject_id),
        (rules.budgets, "budget", rules.budgets.c.endpoint_id),
        (rules.budgets, "budget", rules.budgets.c.subject_id),
    )
    for table, kind, column in of_endpoint:
        for row in await change.rows(table, column == before["id"]):
            await change.remove(table, kind, row)
    await delete_provisions_of(change, before["id"])
    await change.remove(endpoints, "endpoint", before)


async def set_entities(change: Change, endpoint: Row, wanted: Sequence[EntitySpec]) -> bool:
    """Make the endpoint's entities those wanted; answers whether anything had to change."""
    _check_entities(wanted)
    change.require_own("endpoint", endpoint)
    before = len(change.touched)
    there = {
        row["name"]: row
        for row in await change.rows(served_entities, served_entities.c.endpoint_id == endpoint["id"])
    }
    for name in sorted(there.keys() - {each.name for each in wanted}):
        await change.remove(served_entities, "served_entity", there[name])
    for each in wanted:
        values: dict[str, Any] = {
            "kind": each.kind,
            "provider": each.provider,
            "model": each.model,
            "base_url": each.base_url,
            "traffic_percent": each.traffic_percent,
            "fallback_position": each.fallback_position,
        }
        old = there.get(each.name)
        values["settings"] = _settings({} if old is None else old["settings"], each)
        if each.credential_id is not None:
            values["credential_id"] = each.credential_id
        elif old is not None and (
            not each.keeps_credential
            or addresses_of(old) != _addresses(each.base_url, each.provider, values["settings"])
        ):
            # A credential is for one address: it must never follow to another.
            values["credential_id"] = None
        paying = values.get("credential_id", None if old is None else old["credential_id"])
        if paying is not None:
            await require_fitting(change, {**values, "name": each.name, "credential_id": paying})
        if old is None:
            if each.id is not None:
                values["id"] = each.id
            await change.add(
                served_entities, "served_entity", {**values, "name": each.name, "endpoint_id": endpoint["id"]}
            )
        else:
            await change.revise(served_entities, "served_entity", old, **values)
    return len(change.touched) > before


def addresses_of(entity: Row) -> tuple[str, ...]:
    """Everything that decides where a call of a stored entity goes, and as whose."""
    return _addresses(entity["base_url"], entity["provider"], entity["settings"])


def _addresses(base_url: str | None, provider: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    replicas: Sequence[str] = settings.get("rules", {}).get("replicas", ())
    options: Mapping[str, Any] = settings.get("options", {})
    # What is spoken at an address is not where it is.
    placed = sorted(options.keys() - {RESPONSES_OPTION})
    return provider, base_url or "", *replicas, *(f"{name}={options[name]}" for name in placed)


def _settings(old: Mapping[str, Any], wanted: EntitySpec) -> dict[str, Any]:
    settings = dict(old)
    for name, value in (("rules", wanted.rules), ("options", wanted.options), ("shown", wanted.shown)):
        if value:
            settings[name] = dict(value)
        elif value is not None:
            settings.pop(name, None)
    return settings


async def grant(change: Change, endpoint: Row, kind: MemberKind, grantee_id: str, level: LevelName) -> Row:
    """Give a permission, or change the level of the one that is there."""
    table = groups if kind == "group" else principals
    found = await change.rows(table, table.c.id == grantee_id)
    if not found or (kind != "group" and found[0]["kind"] != kind):
        raise BadRequest(f"There is no {kind.replace('_', ' ')} with id {grantee_id!r}.", param="grantee_id")
    there = await change.rows(
        grants, grants.c.endpoint_id == endpoint["id"], grants.c.grantee_id == grantee_id
    )
    if there:
        if there[0]["level"] == level:
            return await change.revise(grants, "grant", there[0], level=level)
        return await change.revise(grants, "grant", there[0], level=level, granted_by=change.actor.id)
    return await change.add(
        grants,
        "grant",
        {
            "endpoint_id": endpoint["id"],
            "grantee_kind": kind,
            "grantee_id": grantee_id,
            "level": level,
            "granted_by": change.actor.id,
        },
    )


async def withdraw(change: Change, before: Row) -> None:
    """Take a permission away."""
    await change.remove(grants, "grant", before)


async def add_price(change: Change, entity_id: str, values: Mapping[str, Any]) -> Row:
    """Enter a price; `corrects` names the entry that it stands in for."""
    found = await change.rows(served_entities, served_entities.c.id == entity_id)
    if not found:
        raise BadRequest(f"There is no served entity with id {entity_id!r}.", param="served_entity_id")
    if values.get("per_gpu_second") and found[0]["kind"] != "local":
        raise BadRequest(
            f"{found[0]['name']!r} is served elsewhere; only the local engine's time has a price.",
            param="per_gpu_second",
        )
    for row in standing(await change.rows(prices, prices.c.served_entity_id == entity_id), change.at):
        change.require_own("price", row)
    corrects = values.get("corrects")
    if corrects is not None:
        wrong = await change.current(prices, corrects, "price")
        if wrong["served_entity_id"] != entity_id:
            raise BadRequest("The corrected entry is another entity's price.", param="corrects")
        if await change.rows(prices, prices.c.corrects == corrects):
            raise BadRequest("That entry is corrected already; correct its correction.", param="corrects")
    effective_from: datetime = values.get("effective_from") or change.at
    return await change.add(
        prices, "price", {**values, "served_entity_id": entity_id, "effective_from": effective_from}
    )


def standing(entries: Sequence[Row], at: datetime) -> list[Row]:
    """The entries of one served entity that hold at a moment or will, in order of when they begin."""
    corrected = {row["corrects"] for row in entries if row["corrects"] is not None}
    found = sorted(
        (
            row
            for row in entries
            if row["id"] not in corrected and (row["effective_to"] is None or row["effective_to"] > at)
        ),
        key=lambda row: (row["effective_from"], row["from_change"], row["id"]),
    )
    begun = [row for row in found if row["effective_from"] <= at]
    return begun[-1:] + [row for row in found if row["effective_from"] > at]


async def endpoint_named(change: Change, name: str) -> Row:
    """The endpoint of that name; raises NotFound."""
    found = await change.rows(endpoints, endpoints.c.name == name)
    if not found:
        raise NotFound(f"There is no endpoint {name!r}.")
    return found[0]


async def _names_are_free(change: Change, values: Mapping[str, Any], own_id: str | None) -> None:
    """Raise unless nothing else goes by the endpoint's name or by one of its aliases."""
    name, aliases = values["name"], list(values.get("aliases", ()))
    if name in aliases or len(set(aliases)) != len(aliases):
        raise BadRequest("An endpoint's names are all different.", param="aliases")
    others = [] if own_id is None else [endpoints.c.id != own_id]
    for row in await change.rows(endpoints, *others):
        if name in row["aliases"]:
            raise BadRequest(f"{name!r} is an alias of endpoint {row['name']!r}.", param="name")
        for each in aliases:
            if each.lower() == row["name"].lower() or each in row["aliases"]:
                raise BadRequest(f"{each!r} means endpoint {row['name']!r} already.", param="aliases")


def _check_external(wanted: EntitySpec) -> None:
    known = PROVIDERS.get(wanted.provider)
    if known is None:
        raise BadRequest(
            f"There is no provider {wanted.provider!r}; entity {wanted.name!r} takes one of {', '.join(PROVIDERS)}.",
            param="served_entities",
        )
    if wanted.base_url is None and known.base_url is None and wanted.credential_id is None:
        raise BadRequest(f"External entity {wanted.name!r} needs a base_url.", param="served_entities")


def _check_entities(wanted: Sequence[EntitySpec]) -> None:
    if not wanted:
        raise BadRequest("An endpoint takes at least one served entity.", param="served_entities")
    names = [each.name for each in wanted]
    if len(set(names)) != len(names):
        raise BadRequest("Two served entities have the same name.", param="served_entities")
    total = sum(each.traffic_percent for each in wanted)
    if total != 100:
        raise BadRequest(f"traffic_percent adds up to {total}; it must be 100.", param="served_entities")
    for each in wanted:
        if each.kind == "external":
            _check_external(each)
        if each.options and (fault := option_fault(provider_named(each.provider), each.options)):
            raise BadRequest(f"Entity {each.name!r}: {fault}.", param="served_entities")
        if each.kind == "local" and each.base_url is not None:
            raise BadRequest(
                f"Entity {each.name!r} is local: the deployment knows its engine's address; leave base_url out.",
                param="served_entities",
            )
        if each.kind == "local" and each.rules and each.rules.get("replicas"):
            raise BadRequest(
                f"Entity {each.name!r} is local: the deployment knows its engines' addresses; leave replicas out.",
                param="served_entities",
            )
