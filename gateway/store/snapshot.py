"""Build the one immutable snapshot of the configuration from its rows.

Pure work on values, done in a thread. A row that cannot be understood fails the whole build, and workers keep the
snapshot they have: half a configuration could grant what the other half forbids.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from engines.providers import provider_named
from policies.budgets import Budget
from policies.caching import cache_rules
from policies.calling import endpoint_rules, entity_rules
from policies.catalog import Account, Endpoint, EntityKind, Price, ServedEntity, Snapshot
from policies.limits import Limit, Metric, Mode, ScopeKind
from policies.payloads import payload_rules
from policies.permissions import Level
from policies.principal import Group, Principal, PrincipalKind, Role
from policies.throughput import Pool, Provision, Throughput
from policies.tokens import Family, Issuer
from policies.windows import Calendar, Rolling, Unit, Window

Rows = list[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class ConfigurationRows:
    """All rows of one version of the configuration, table by table."""

    version: int
    principals: Rows
    groups: Rows
    memberships: Rows
    roles: Rows
    endpoints: Rows
    served_entities: Rows
    grants: Rows
    prices: Rows
    limits: Rows
    budgets: Rows
    issuers: Rows
    providers: Rows = field(default_factory=list[Mapping[str, Any]])
    provider_secrets: Rows = field(default_factory=list[Mapping[str, Any]])
    """Sealed; of the present only. The newest version of each provider first."""
    throughput_pools: Rows = field(default_factory=list[Mapping[str, Any]])
    throughput_provisions: Rows = field(default_factory=list[Mapping[str, Any]])


@dataclass(frozen=True, slots=True)
class Built:
    """A snapshot, and the moment at which it changes by itself because a price or an increase begins or ends."""

    snapshot: Snapshot
    stale_at: datetime | None


def build(rows: ConfigurationRows, now: datetime) -> Built:
    """The snapshot as it holds at `now`."""
    within = _memberships(rows.memberships)
    edges: list[datetime] = []
    prices = _prices(rows.prices, now, edges)
    managers: dict[str, set[str]] = {}
    roles: dict[str, set[Role]] = {}
    for row in rows.roles:
        if row["role"] == "group_manager":
            managers.setdefault(row["group_id"], set()).add(row["grantee_id"])
        else:
            roles.setdefault(row["grantee_id"], set()).add(Role(row["role"]))
    grants: dict[str, dict[str, Level]] = {}
    for row in rows.grants:
        grants.setdefault(row["endpoint_id"], {})[row["grantee_id"]] = Level[row["level"]]
    snapshot = Snapshot(
        version=rows.version,
        principals={row["id"]: _principal(row, within, roles) for row in rows.principals},
        groups={
            row["id"]: Group(
                id=row["id"],
                name=row["name"],
                parents=tuple(sorted(within.get(row["id"], ()))),
                managers=frozenset(managers.get(row["id"], ())),
                roles=frozenset(roles.get(row["id"], ())),
            )
            for row in rows.groups
        },
        endpoints=_endpoints(rows, prices, _accounts(rows, now, edges)),
        grants=grants,
        limits=tuple(limit_of(row) for row in rows.limits if row["enabled"]),
        budgets=tuple(budget_of(row, now, edges) for row in rows.budgets if row["enabled"]),
        issuers={row["issuer"]: issuer_of(row) for row in rows.issuers if row["enabled"]},
        identities={
            (row["issuer"], row["subject"]): row["id"] for row in rows.principals if row["issuer"] is not None
        },
        group_ids={row["name"].lower(): row["id"] for row in rows.groups},
        local_groups=frozenset(row["id"] for row in rows.groups if row["local_only"]),
        throughput=_throughput(rows),
    )
    return Built(snapshot, min(edges, default=None))


def all_groups(member: str, within: Mapping[str, Iterable[str]]) -> set[str]:
    """Every group that a member belongs to, nested ones followed."""
    found: set[str] = set()
    ahead = list(within.get(member, ()))
    while ahead:
        group = ahead.pop()
        if group not in found:
            found.add(group)
            ahead.extend(within.get(group, ()))
    return found


def _memberships(rows: Rows) -> dict[str, set[str]]:
    within: dict[str, set[str]] = {}
    for row in rows:
        within.setdefault(row["member_id"], set()).add(row["group_id"])
    return within


def _principal(
    row: Mapping[str, Any], within: Mapping[str, set[str]], roles: Mapping[str, set[Role]]
) -> Principal:
    groups = sorted(all_groups(row["id"], within))
    held = set(roles.get(row["id"], ()))
    for group in groups:
        held |= roles.get(group, set())
    not_before = row["tokens_not_before"]
    return Principal(
        id=row["id"],
        kind=PrincipalKind(row["kind"]),
        name=row["name"],
        groups=tuple(groups),
        roles=frozenset(held),
        active=row["active"],
        # Tokens tell whole seconds: one of the second in which they were ended is refused with the others.
        tokens_not_before=0 if not_before is None else math.ceil(not_before.timestamp()),
        own_roles=frozenset(roles.get(row["id"], ())),
    )


def _prices(rows: Rows, now: datetime, edges: list[datetime]) -> dict[str, Price]:
    corrected = {row["corrects"] for row in rows if row["corrects"] is not None}
    chosen: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if row["id"] in corrected:
            continue
        edges.extend(
            edge for edge in (row["effective_from"], row["effective_to"]) if edge is not None and edge > now
        )
        if row["effective_from"] > now or (row["effective_to"] is not None and row["effective_to"] <= now):
            continue
        # The price that began last holds; of two that began together, the one entered last.
        before = chosen.get(row["served_entity_id"])
        if before is None or _began(row) > _began(before):
            chosen[row["served_entity_id"]] = row
    return {
        entity: Price(
            id=row["id"],
            input=row["input"],
            cache_read=row["cache_read"],
            cache_write=row["cache_write"],
            output=row["output"],
            reasoning=row["reasoning"],
            per_request=row["per_request"],
            per_gpu_second=row["per_gpu_second"],
            per_cache_hit=row["per_cache_hit"],
        )
        for entity, row in chosen.items()
    }


def _began(row: Mapping[str, Any]) -> tuple[datetime, int, str]:
    return row["effective_from"], row["from_change"], row["id"]


def _accounts(rows: ConfigurationRows, now: datetime, edges: list[datetime]) -> dict[str, Account]:
    sealed: dict[str, list[bytes]] = {}
    for row in rows.provider_secrets:
        if row["ends_at"] is not None:
            if row["ends_at"] <= now:
                continue
            edges.append(row["ends_at"])
        sealed.setdefault(row["provider_id"], []).append(row["secret_sealed"])
    return {
        row["id"]: Account(
            id=row["id"],
            name=row["name"],
            provider=row["provider"],
            base_url=row["base_url"],
            source=row["source"],
            reference=row["reference"],
            sealed=tuple(sealed.get(row["id"], ())),
        )
        for row in rows.providers
    }


def _endpoints(
    rows: ConfigurationRows, prices: Mapping[str, Price], accounts: Mapping[str, Account]
) -> dict[str, Endpoint]:
    entities: dict[str, Rows] = {}
    for row in rows.served_entities:
        entities.setdefault(row["endpoint_id"], []).append(row)
    found: dict[str, Endpoint] = {}
    for row in rows.endpoints:
        own = entities.get(row["id"], [])
        rules = endpoint_rules(row["settings"].get("rules", {}))
        ranks = _ranks(own, rules.fallback)
        endpoint = Endpoint(
            id=row["id"],
            name=row["name"],
            task=row["task"],
            entities=tuple(_entity(each, prices, accounts) for each in own),
            split=tuple((each["name"], each["traffic_percent"]) for each in own if each["traffic_percent"]),
            fallbacks=tuple(name for names in ranks for name in names),
            estimate_milli=row["estimate_milli"],
            default_max_tokens=row["default_max_tokens"],
            creator=row["creator"],
            created_at_ms=int(row["created_at"].timestamp() * 1000),
            updated_at_ms=int(row["valid_from"].timestamp() * 1000),
            tags=tuple(sorted((str(key), str(value)) for key, value in row["tags"].items())),
            description=row["description"],
            ranks=ranks if any(len(names) > 1 for names in ranks) else (),
            local_only=row["local_only"],
            rules=rules,
            cache=cache_rules(row["settings"].get("cache", {})),
            version=row["from_change"],
            order=tuple(
                each["name"] for each in sorted(own, key=lambda each: each["fallback_position"] or 999)
            ),
            features=row["settings"].get("ai_gateway", {}),
            config_version=row["config_version"],
            payloads=payload_rules(row["settings"].get("payloads", {})),
        )
        found[row["name"]] = endpoint
    for row in rows.endpoints:
        for alias in row["aliases"]:
            # An alias never stands in for an endpoint that has the name.
            found.setdefault(alias, found[row["name"]])
    return found


def _ranks(entities: Rows, enabled: bool | None) -> tuple[tuple[str, ...], ...]:
    """The names of the fallbacks by position; with fallback for all, those without a position come last, in order."""
    if enabled is False:
        return ()
    by_position: dict[int, list[str]] = {}
    last: list[str] = []
    for row in entities:
        if row["fallback_position"] is not None:
            by_position.setdefault(row["fallback_position"], []).append(row["name"])
        elif enabled:
            last.append(row["name"])
    ranks = [tuple(by_position[position]) for position in sorted(by_position)]
    return (*ranks, *((name,) for name in last))


def _entity(
    row: Mapping[str, Any], prices: Mapping[str, Price], accounts: Mapping[str, Account]
) -> ServedEntity:
    account = accounts.get(row["credential_id"]) if row["credential_id"] is not None else None
    base_url = row["base_url"]
    if base_url is None and row["kind"] != "local":
        base_url = account.base_url if account is not None else provider_named(row["provider"]).base_url
    kind, price = EntityKind(row["kind"]), prices.get(row["id"]) or Price(id="")
    if kind is not EntityKind.LOCAL and price.per_gpu_second:
        # It was the local engine's when the price was entered: other people's processors are not billed by time.
        price = replace(price, per_gpu_second=0)
    return ServedEntity(
        id=row["id"],
        name=row["name"],
        kind=kind,
        provider=row["provider"],
        model=row["model"],
        price=price,
        base_url=base_url,
        credential_id=row["credential_id"],
        rules=entity_rules(row["settings"].get("rules", {})),
        shown=row["settings"].get("shown", {}),
        options=tuple(sorted(row["settings"].get("options", {}).items())),
        account=account,
    )


def _throughput(rows: ConfigurationRows) -> Throughput | None:
    """What is provisioned for those who are still there; None where nothing is, and every call goes as it comes."""
    there = {row["id"] for row in (*rows.endpoints, *rows.groups)}
    booked = [row for row in rows.throughput_provisions if row["subject_id"] in there]
    if not rows.throughput_pools or not booked:
        return None
    pool = pool_of(rows.throughput_pools[0])
    return Throughput.made(pool, (provision_of(row, pool) for row in booked))


def pool_of(row: Mapping[str, Any]) -> Pool:
    """The pool as policies decide with it."""
    return Pool(
        id=row["id"],
        name=row["name"],
        replicas=row["replicas"],
        tokens_per_second=row["tokens_per_second"],
        slots=row["slots"],
        unit_tokens_per_second=row["unit_tokens_per_second"],
        queue=row["queue"],
        queue_ms=row["queue_ms"],
    )


def provision_of(row: Mapping[str, Any], pool: Pool) -> Provision:
    """A provision of the pool as policies decide with it."""
    return Provision(
        id=row["id"],
        name=row["name"],
        subject_id=row["subject_id"],
        rate=row["units"] * pool.unit_tokens_per_second,
        first_token_ms=row["first_token_ms"],
    )


def window_of(row: Mapping[str, Any]) -> Window | None:
    """The window of a limit's row; None for concurrent requests."""
    match row["window_kind"]:
        case "rolling":
            return Rolling(row["window_ms"])
        case "calendar":
            return Calendar(Unit(row["window_unit"]), row["time_zone"])
        case _:
            return None


def limit_of(row: Mapping[str, Any]) -> Limit:
    """A limit as policies decide with it; raises ValueError for one that makes no sense."""
    return Limit(
        id=row["id"],
        scope=ScopeKind(row["scope"]),
        metric=Metric(row["metric"]),
        window=window_of(row),
        amount=row["amount"],
        subject_id=row["subject_id"],
        endpoint_id=row["endpoint_id"],
        mode=Mode(row["mode"]),
        name=row["name"],
    )


def budget_of(row: Mapping[str, Any], now: datetime, edges: list[datetime]) -> Budget:
    """A budget as policies decide with it, an increase that is in force included; its end goes to `edges`."""
    amount = row["amount_nano_usd"]
    if row["increase_until"] is not None and row["increase_until"] > now:
        amount += row["increase_nano_usd"]
        edges.append(row["increase_until"])
    return Budget(
        id=row["id"],
        scope=ScopeKind(row["scope"]),
        period=Calendar(Unit(row["period"]), row["time_zone"]),
        nano_usd=amount,
        subject_id=row["subject_id"],
        endpoint_id=row["endpoint_id"],
        thresholds=tuple(row["thresholds_percent"]),
        mode=Mode(row["mode"]),
        name=row["name"],
    )


def issuer_of(row: Mapping[str, Any]) -> Issuer:
    """An issuer as policies decide with it."""
    keys = row["public_keys"]
    return Issuer(
        id=row["id"],
        name=row["name"],
        issuer=row["issuer"],
        audience=row["audience"],
        family=Family(row["family"]),
        jwks_uri=row["jwks_uri"],
        public_keys=None if keys is None else json.dumps(keys, sort_keys=True),
        sealed_secret=row["secret_sealed"],
        principal_claim=row["principal_claim"],
        name_claim=row["name_claim"],
        groups_claim=row["groups_claim"],
        kind=PrincipalKind(row["kind"]),
        creates=row["create_principals"],
        replaces_groups=row["replace_groups"],
        max_age_seconds=row["max_age_seconds"],
        leeway_seconds=row["leeway_seconds"],
        planes=frozenset(row["planes"]),
    )
