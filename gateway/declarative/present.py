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

from gateway.declarative.document import moment, worded
from gateway.store.endpoints import standing
from gateway.store.reading import Row, rows
from gateway.store.snapshot import window_of
from gateway.store.tables.catalog import endpoints, grants, prices, served_entities
from gateway.store.tables.events import webhooks
from gateway.store.tables.identity import api_keys, groups, issuers, memberships, principals, roles
from gateway.store.tables.providers import providers
from gateway.store.tables.rules import budgets, limits
from gateway.store.tables.throughput import throughput_pools, throughput_provisions
from policies.declaration import Present
from policies.declared_kinds import BY_NAME, GRANTEES, MANAGERS, MEMBERS, Spec
from policies.money import usd_of
from policies.windows import text_of

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
_PRINCIPAL = ("name", "display_name", "email", "active", "issuer", "subject")
_ISSUER = (
    "name", "issuer", "audience", "family", "jwks_uri", "allow_loopback_http", "public_keys", "principal_claim",
    "name_claim", "groups_claim", "kind", "create_principals", "replace_groups", "max_age_seconds",
    "leeway_seconds", "enabled",
)  # fmt: skip
_POOL = ("name", "replicas", "tokens_per_second", "slots", "unit_tokens_per_second", "queue", "queue_ms")
_PROVISION = ("name", "scope", "units", "first_token_ms")
_ENTITY = ("name", "kind", "provider", "model", "base_url", "traffic_percent", "fallback_position")
_ENDPOINT = ("name", "task", "description", "tags", "estimate_milli", "default_max_tokens", "local_only")


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
        *(_present("user" if row["kind"] == "user" else "service_principal", row, _principal(row, held)) for row in people),
        *(
            _present("group", row, _group(row, members.get(row["id"], {}), managers.get(row["id"], {}), held))
            for row in crowds
        ),
        *(_present("provider", row, _provider(row)) for row in accounts),
        *(_present("endpoint", row, _endpoint(row, serving, paying)) for row in doors),
        *(
            _present("grant", row, _grant(row, names))
            for row in await rows(connection, grants)
            if row["endpoint_id"] in names and row["grantee_id"] in names
        ),
        *(
            _present("limit", row, _limit(row, names))
            for row in await rows(connection, limits)
            if _is_whole(row, names)
        ),
        *(
            _present("budget", row, _budget(row, names))
            for row in await rows(connection, budgets)
            if _is_whole(row, names)
        ),
    ]  # fmt: skip
    found += [
        _present("throughput_pool", row, {name: row[name] for name in _POOL})
        for row in await rows(connection, throughput_pools)
    ]
    found += [
        _present(
            "throughput_provision",
            row,
            {**{name: row[name] for name in _PROVISION}, "subject": names[row["subject_id"]]},
        )
        for row in await rows(connection, throughput_provisions)
        if row["subject_id"] in names
    ]
    found += [_present("webhook", row, _webhook(row)) for row in await rows(connection, webhooks)]
    undeclarable = [
        f"provider {each.spec['name']!r}: its credential is stored"
        for each in found
        if each.kind == "provider" and is_stored(each.spec["credential"])
    ]
    for row in await rows(connection, issuers):
        if row["secret_sealed"] is not None:
            undeclarable.append(f"issuer {row['name']!r}: it has a shared secret")
        else:
            planes = sorted(row["planes"])
            found.append(_present("issuer", row, {**{name: row[name] for name in _ISSUER}, "planes": planes}))
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


def _principal(row: Row, held: Mapping[str, Sequence[str]]) -> Spec:
    return {**{name: row[name] for name in _PRINCIPAL}, "roles": sorted(held.get(row["id"], ()))}


def _of_kind(found: dict[str, dict[str, list[str]]], group: str, kind: str) -> list[str]:
    return found.setdefault(group, {}).setdefault(kind, [])


def _group(
    row: Row,
    members: Mapping[str, Sequence[str]],
    managers: Mapping[str, Sequence[str]],
    held: Mapping[str, Sequence[str]],
) -> Spec:
    return {
        "name": row["name"],
        "description": row["description"],
        "local_only": row["local_only"],
        **{field: sorted(members.get(kind, ())) for field, kind in MEMBERS},
        **{field: sorted(managers.get(kind, ())) for field, kind in MANAGERS},
        "roles": sorted(held.get(row["id"], ())),
    }


def _webhook(row: Row) -> Spec:
    return {**{name: row[name] for name in ("name", "url", "enabled")}, "events": sorted(row["events"])}


def is_stored(credential: Mapping[str, Any] | None) -> bool:
    """Whether a provider's credential is one that no file can have."""
    return credential is not None and "stored" in credential


def _provider(row: Row) -> Spec:
    source = row["source"]
    # Of a stored one nothing is told, its end neither.
    credential = None if source == "none" else {source: True if source == "stored" else row["reference"]}
    return {**{name: row[name] for name in ("name", "provider", "base_url")}, "credential": credential}


def _endpoint(row: Row, serving: Sequence[Row], paying: Mapping[str, str]) -> Spec:
    own = sorted(
        (each for each in serving if each["endpoint_id"] == row["id"]), key=lambda each: each["name"]
    )
    return {
        **{name: row[name] for name in _ENDPOINT},
        "aliases": sorted(row["aliases"]),
        "calling": row["settings"].get("rules", {}),
        "payloads": row["settings"].get("payloads", {}),
        "cache": row["settings"].get("cache", {}),
        "served_entities": [
            {
                **{name: each[name] for name in _ENTITY},
                "account": paying.get(each["credential_id"]),
                "calling": each["settings"].get("rules", {}),
                "options": each["settings"].get("options", {}),
            }
            for each in own
        ],
    }


def _grant(row: Row, names: Mapping[str, str]) -> Spec:
    spec: dict[str, Any] = {
        kind: names[row["grantee_id"]] if row["grantee_kind"] == kind else None for kind in GRANTEES
    }
    return {"endpoint": names[row["endpoint_id"]], "level": row["level"], **spec}


def _rule(row: Row, names: Mapping[str, str]) -> dict[str, Any]:
    return {
        "scope": row["scope"],
        "subject": None if row["subject_id"] is None else names[row["subject_id"]],
        "endpoint": None if row["endpoint_id"] is None else names[row["endpoint_id"]],
        "mode": row["mode"],
        "name": row["name"],
        "enabled": row["enabled"],
    }


def _limit(row: Row, names: Mapping[str, str]) -> Spec:
    window = window_of(row)
    return {
        **_rule(row, names),
        "metric": row["metric"],
        "window": None if window is None else worded(text_of(window)),
        "amount": row["amount"],
    }


def _budget(row: Row, names: Mapping[str, str]) -> Spec:
    return {
        **_rule(row, names),
        "period": row["period"],
        "time_zone": row["time_zone"],
        "usd": usd_of(row["amount_nano_usd"]),
        "thresholds_percent": list(row["thresholds_percent"]),
    }


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
