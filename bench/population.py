"""Who calls: thousands of keys over many users of one group, four limits and one budget that bind each call.

Rows go straight into the store's own tables in one numbered change; all amounts are so large that nothing refuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Table, insert

from gateway.security.keys import Peppers, mint
from gateway.security.secrets import Purpose, load_master_key
from gateway.seed import ENDPOINT, seed
from gateway.settings import Settings
from gateway.store import database
from gateway.store.changes import Actor, Change, Configuration
from gateway.store.endpoints import endpoint_named, grant
from gateway.store.principals import create_group
from gateway.store.rules import create_limit
from gateway.store.tables.catalog import endpoints, grants, prices, served_entities
from gateway.store.tables.identity import api_keys, memberships, principals
from gateway.store.tables.rules import budgets, limits

KEYS_A_USER = 4
_PLENTY = 10**12
_PRICE_NANO_USD = 500_000_000
_MINUTE = {"window_kind": "rolling", "window_ms": 60_000}


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is beside the keys."""

    users: int | None = None
    """None: one for every four keys."""
    endpoints: int = 1

    def names(self) -> list[str]:
        """The endpoints that can be called."""
        return [ENDPOINT, *(f"bench-{number}" for number in range(1, self.endpoints))]


ORDINARY = Size()


async def populate(
    settings: Settings, database_url: str, count: int, into: Path, size: Size = ORDINARY
) -> None:
    """Seed the first objects, then `count` keys, whose texts go into a file, one a line."""
    await seed(settings, database_url)
    master = load_master_key(settings.secret_file)
    peppers = Peppers(master.derive_all(Purpose.API_KEY_PEPPER))
    engine = database.engine(database_url, application_name="weighbridge-bench", size=0)
    try:
        configuration = Configuration(engine, master.derive(Purpose.AUDIT_CHAIN))
        async with configuration.change(Actor(None, "bench"), "callers of the benchmark") as change:
            await _rules(change)
            texts = await _people(change, peppers, count, size)
    finally:
        await engine.dispose()
    into.touch(mode=0o600)
    into.write_text("\n".join(texts) + "\n")


async def _rules(change: Change) -> None:
    endpoint = await endpoint_named(change, ENDPOINT)
    for values in (
        {"scope": "user_default", "subject_id": None, "metric": "requests", **_MINUTE},
        {"scope": "user_default", "subject_id": None, "metric": "total_tokens", **_MINUTE},
        {"scope": "user_default", "subject_id": None, "metric": "concurrent_requests", "window_kind": "none"},
        {"scope": "endpoint", "subject_id": endpoint["id"], "metric": "total_tokens", **_MINUTE},
    ):
        await create_limit(change, {**values, "amount": _PLENTY})
    await change.add(
        budgets,
        "budget",
        {"scope": "user_default", "period": "month", "amount_nano_usd": 1_000_000 * 10**9},
    )


async def _more_endpoints(change: Change, names: list[str], group_id: str) -> None:
    """Each with an entity, a price, a grant and a limit, as the first one has."""
    version = {"from_change": change.number, "valid_from": change.at}
    price = dict.fromkeys(("input", "cache_read", "cache_write", "output", "reasoning"), _PRICE_NANO_USD)
    made: dict[Table, list[dict[str, Any]]] = {}
    for name in names:
        endpoint, entity = change.new_id(), change.new_id()
        for table, values in (
            (
                endpoints,
                {"id": endpoint, "name": name, "task": "llm/v1/chat", "creator": "bench", "created_at": change.at},
            ),
            (
                served_entities,
                {"id": entity, "endpoint_id": endpoint, "name": name, "kind": "local", "provider": "vllm",
                 "model": "mixtral-demo", "traffic_percent": 100, "settings": {}},
            ),
            (prices, {"served_entity_id": entity, "effective_from": change.at, "note": "", **price}),
            (
                grants,
                {"endpoint_id": endpoint, "grantee_kind": "group", "grantee_id": group_id, "level": "CAN_QUERY"},
            ),
            (
                limits,
                {"scope": "endpoint", "subject_id": endpoint, "metric": "total_tokens", "amount": _PLENTY, **_MINUTE},
            ),
        ):  # fmt: skip
            made.setdefault(table, []).append({"id": change.new_id(), **values, **version})
    for table, rows in made.items():
        await change.connection.execute(insert(table), rows)


async def _people(change: Change, peppers: Peppers, count: int, size: Size) -> list[str]:
    """Users, their membership and their keys; the keys' texts."""
    endpoint = await endpoint_named(change, ENDPOINT)
    group = await create_group(change, "bench", "Callers of the benchmark.")
    await grant(change, endpoint, "group", group["id"], "CAN_QUERY")
    await _more_endpoints(change, size.names()[1:], group["id"])
    version = {"from_change": change.number, "valid_from": change.at}
    users = [
        {"id": change.new_id(), "kind": "user", "name": f"bench-{number}", **version}
        for number in range(size.users or -(-count // KEYS_A_USER))
    ]
    within = [
        {
            "id": change.new_id(),
            "group_id": group["id"],
            "member_kind": "user",
            "member_id": user["id"],
            **version,
        }
        for user in users
    ]
    minted = [mint(peppers) for _ in range(count)]
    keys = [
        {
            "id": change.new_id(),
            "principal_id": users[number % len(users)]["id"],
            "id_part": each.id_part,
            "digest": each.digest,
            "pepper_version": each.pepper_version,
            "planes": ["data"],
            "created_at": change.at,
            **version,
        }
        for number, each in enumerate(minted)
    ]
    for table, rows in ((principals, users), (memberships, within), (api_keys, keys)):
        for start in range(0, len(rows), 1000):
            await change.connection.execute(insert(table), rows[start : start + 1000])
    return [each.text for each in minted]
