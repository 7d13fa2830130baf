"""Rows of endpoints, of what serves them, of its prices and of accounts with providers, as what a call is routed by.

Which price holds is decided by the moment alone: the one that began last, and of two that began together the one entered
last. A price that another corrects never held.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from engines.providers import provider_named
from policies.caching import cache_rules
from policies.calling import endpoint_rules, entity_rules
from policies.catalog import Account, Endpoint, EntityKind, Price, ServedEntity
from policies.payloads import payload_rules

Rows = list[Mapping[str, Any]]


def prices_at(rows: Rows, now: datetime, edges: list[datetime]) -> dict[str, Price]:
    """The price of each served entity that has one; when one begins or ends goes to `edges`."""
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


def accounts_of(providers: Rows, secrets: Rows, now: datetime, edges: list[datetime]) -> dict[str, Account]:
    """Accounts with providers and what seals their credentials; when one of these ends goes to `edges`."""
    sealed: dict[str, list[bytes]] = {}
    for row in secrets:
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
        for row in providers
    }


def endpoints_of(
    rows: Rows, serving: Rows, prices: Mapping[str, Price], accounts: Mapping[str, Account]
) -> dict[str, Endpoint]:
    """Endpoints by name and alias, each with what serves it."""
    entities: dict[str, Rows] = {}
    for row in serving:
        entities.setdefault(row["endpoint_id"], []).append(row)
    found: dict[str, Endpoint] = {}
    for row in rows:
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
    for row in rows:
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
