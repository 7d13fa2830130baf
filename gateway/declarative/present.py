"""What is there, written as a file would declare it: every governed object by names, from one moment.

Read with the file's own keys at hand, since a price may be declared with or without the moment when it begins.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.declarative.document import moment
from gateway.declarative.specs import (
    budget_spec,
    endpoint_spec,
    grant_spec,
    group_spec,
    issuer_spec,
    limit_spec,
    pool_spec,
    principal_spec,
    provider_spec,
    provision_spec,
    webhook_spec,
)
from gateway.store.endpoints import standing
from gateway.store.reading import Row, rows
from gateway.store.tables.catalog import endpoints, grants, prices, served_entities
from gateway.store.tables.events import webhooks
from gateway.store.tables.identity import api_keys, groups, issuers, memberships, principals, roles
from gateway.store.tables.providers import providers
from gateway.store.tables.rules import budgets, limits
from gateway.store.tables.throughput import throughput_pools, throughput_provisions
from policies.declaration import Present
from policies.declared_kinds import BY_NAME, Spec
from policies.money import usd_of

TABLES: dict[str, Table] = {
    "issuer": issuers,
    "user": principals,
    "service_principal": principals,
    "group": groups,
    "provider": providers,
    "endpoint": endpoints,
    "grant": grants,
    "limit": limits,
    "budget": budgets,
    "price": prices,
    "throughput_pool": throughput_pools,
    "throughput_provision": throughput_provisions,
    "webhook": webhooks,
}
CLASSES = (
    "input",
    "cache_read",
    "cache_write",
    "output",
    "reasoning",
    "per_request",
    "per_gpu_second",
    "per_cache_hit",
)


@dataclass(frozen=True, slots=True)
class Found:
    """Everything that is there."""

    objects: tuple[Present, ...]
    entities: Mapping[tuple[str, str], str]
    """Id of a served entity by its endpoint's id and its name."""
    keys: Mapping[str, str]
    """Id of an API key by its public part."""
    undeclarable: tuple[str, ...]
    """What no file can declare: issuers with a shared secret, providers whose credential is stored."""


async def read(connection: AsyncConnection, at: datetime, wanted: Collection[tuple[str, str]] = ()) -> Found:
    """What is there at this moment; `wanted` are the keys of what a file declares."""
    held: dict[str, list[str]] = {}
    managing: list[Row] = []
    for row in await rows(connection, roles):
        if row["group_id"] is None:
            held.setdefault(row["grantee_id"], []).append(row["role"])
        else:
            managing.append(row)
    people = await rows(connection, principals)
    crowds = await rows(connection, groups)
    doors = await rows(connection, endpoints)
    key_rows = await connection.execute(
        select(api_keys.c.id, api_keys.c.id_part).where(api_keys.c.to_change.is_(None))
    )
    keys = {row.id_part: row.id for row in key_rows}
    names: dict[str, str] = {row["id"]: row["name"] for row in (*people, *crowds, *doors)}
    names |= {key_id: part for part, key_id in keys.items()}
    members: dict[str, dict[str, list[str]]] = {}
    for row in await rows(connection, memberships):
        if row["member_id"] in names:
            _of_kind(members, row["group_id"], row["member_kind"]).append(names[row["member_id"]])
    managers: dict[str, dict[str, list[str]]] = {}
    for row in managing:
        if row["grantee_id"] in names:
            _of_kind(managers, row["group_id"], row["grantee_kind"]).append(names[row["grantee_id"]])
    serving = await rows(connection, served_entities)
    accounts = await rows(connection, providers)
    paying = {row["id"]: row["name"] for row in accounts}
    found = [
        *(_present("user" if row["kind"] == "user" else "service_principal", row, principal_spec(row, held)) for row in people),
        *(
            _present("group", row, group_spec(row, members.get(row["id"], {}), managers.get(row["id"], {}), held))
            for row in crowds
        ),
        *(_present("provider", row, provider_spec(row)) for row in accounts),
        *(_present("endpoint", row, endpoint_spec(row, serving, paying)) for row in doors),
        *(
            _present("grant", row, grant_spec(row, names))
            for row in await rows(connection, grants)
            if row["endpoint_id"] in names and row["grantee_id"] in names
        ),
        *(
            _present("limit", row, limit_spec(row, names))
            for row in await rows(connection, limits)
            if _is_whole(row, names)
        ),
        *(
            _present("budget", row, budget_spec(row, names))
            for row in await rows(connection, budgets)
            if _is_whole(row, names)
        ),
    ]  # fmt: skip
    found += [
        _present("throughput_pool", row, pool_spec(row)) for row in await rows(connection, throughput_pools)
    ]
    found += [
        _present("throughput_provision", row, provision_spec(row, names))
        for row in await rows(connection, throughput_provisions)
        if row["subject_id"] in names
    ]
    found += [_present("webhook", row, webhook_spec(row)) for row in await rows(connection, webhooks)]
    undeclarable = [
        f"provider {each.spec['name']!r}: its credential is stored"
        for each in found
        if each.kind == "provider" and is_stored(each.spec["credential"])
    ]
    for row in await rows(connection, issuers):
        if row["secret_sealed"] is not None:
            undeclarable.append(f"issuer {row['name']!r}: it has a shared secret")
        else:
            found.append(_present("issuer", row, issuer_spec(row)))
    found += _prices(await rows(connection, prices), serving, names, at, wanted)
    return Found(
        tuple(found),
        {(row["endpoint_id"], row["name"]): row["id"] for row in serving},
        keys,
        tuple(undeclarable),
    )


def _present(kind: str, row: Row, spec: Spec) -> Present:
    return Present(kind, spec, row["id"], row["managed_by"])


def _is_whole(row: Row, names: Mapping[str, str]) -> bool:
    return all(row[field] is None or row[field] in names for field in ("subject_id", "endpoint_id"))


def _of_kind(found: dict[str, dict[str, list[str]]], group: str, kind: str) -> list[str]:
    return found.setdefault(group, {}).setdefault(kind, [])


def is_stored(credential: Mapping[str, Any] | None) -> bool:
    """Whether a provider's credential is one that no file can have."""
    return credential is not None and "stored" in credential


def _prices(
    entries: Sequence[Row],
    serving: Sequence[Row],
    names: Mapping[str, str],
    at: datetime,
    wanted: Collection[tuple[str, str]],
) -> list[Present]:
    """The price of each entity that holds and those to come; older ones only where the file names their beginning."""
    kind = BY_NAME["price"]
    of_entity: dict[str, list[Row]] = {}
    for row in entries:
        of_entity.setdefault(row["served_entity_id"], []).append(row)
    found: dict[tuple[str, str], Present] = {}
    for entity in serving:
        own = of_entity.get(entity["id"], [])
        corrected = {row["corrects"] for row in own}
        holding = {row["id"] for row in standing(own, at)}
        # Of two that begin together the one entered last holds.
        for row in sorted(own, key=lambda each: (each["from_change"], each["id"])):
            if row["id"] in corrected:
                continue
            dated: dict[str, Any] = {
                "endpoint": names[entity["endpoint_id"]],
                "entity": entity["name"],
                "from": moment(row["effective_from"]),
                "until": None if row["effective_to"] is None else moment(row["effective_to"]),
                **{name: usd_of(row[name]) for name in CLASSES},
                "note": row["note"],
            }
            undated = {**dated, "from": None}
            if kind.key(dated) in wanted:
                found[kind.key(dated)] = _present("price", row, dated)
            elif row["id"] in holding and row["effective_from"] <= at and kind.key(undated) in wanted:
                found[kind.key(undated)] = _present("price", row, undated)
            elif row["id"] in holding:
                found[kind.key(dated)] = _present("price", row, dated)
    return list(found.values())
