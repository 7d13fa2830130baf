"""From rows to a snapshot: what holds now, and when that changes by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.store.snapshot import ConfigurationRows, build
from policies.catalog import Snapshot
from policies.limits import Metric, ScopeKind
from policies.permissions import Level
from policies.principal import Role
from policies.windows import Calendar, Rolling, Unit

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def configured(**tables: list[dict[str, Any]]) -> ConfigurationRows:
    names = [each for each in ConfigurationRows.__dataclass_fields__ if each != "version"]
    return ConfigurationRows(version=7, **{name: tables.get(name, []) for name in names})  # type: ignore[arg-type]


def principal(name: str, **more: Any) -> dict[str, Any]:
    plain = {"active": True, "tokens_not_before": None, "issuer": None, "subject": None}
    return {"id": name, "kind": "user", "name": name, **plain, **more}


def member(of: str, who: str) -> dict[str, Any]:
    return {"group_id": of, "member_id": who, "member_kind": "user"}


def price(
    name: str, cost: int, begins: datetime, ends: datetime | None = None, **more: Any
) -> dict[str, Any]:
    classes = dict.fromkeys(
        (
            "input",
            "cache_read",
            "cache_write",
            "output",
            "reasoning",
            "per_request",
            "per_gpu_second",
            "per_cache_hit",
        ),
        cost,
    )
    return {
        "id": name,
        "served_entity_id": "m",
        "effective_from": begins,
        "effective_to": ends,
        "corrects": None,
        "from_change": 1,
        **classes,
        **more,
    }


ENDPOINT = {
    "id": "e", "name": "chat", "aliases": ["talk"], "task": "llm/v1/chat", "description": "", "creator": "", "created_at": NOW,
    "valid_from": NOW, "tags": {"team": "a"}, "estimate_milli": 500, "default_max_tokens": 64,
    "local_only": False, "settings": {}, "config_version": 3, "from_change": 4,
}  # fmt: skip
ENTITY = {
    "id": "m", "endpoint_id": "e", "name": "one", "kind": "local", "provider": "vllm", "model": "one", "base_url": None,
    "credential_id": None, "traffic_percent": 100, "fallback_position": None,
    "settings": {"rules": {"concurrency": 9, "replicas": ["http://two"]}, "options": {"region": "x"}},
}  # fmt: skip


def priced(*prices: dict[str, Any]) -> tuple[int, datetime | None]:
    built = build(configured(endpoints=[ENDPOINT], served_entities=[ENTITY], prices=list(prices)), NOW)
    return built.snapshot.endpoints["chat"].entities[0].price.input, built.stale_at


def test_groups_are_followed_through_every_nesting_even_a_loop() -> None:
    groups = [{"id": each, "name": each, "local_only": each == "b"} for each in "abcd"]
    memberships = [member("a", "u"), member("b", "a"), member("c", "b"), member("a", "c")]
    snapshot = build(
        configured(principals=[principal("u")], groups=groups, memberships=memberships), NOW
    ).snapshot
    assert snapshot.principals["u"].groups == ("a", "b", "c")
    assert snapshot.groups["a"].parents == ("b",)


def test_roles_come_from_the_principal_and_its_groups() -> None:
    roles = [
        {"role": "admin", "grantee_id": "b", "group_id": None},
        {"role": "auditor", "grantee_id": "v", "group_id": None},
        {"role": "group_manager", "grantee_id": "v", "group_id": "a"},
    ]
    snapshot = build(
        configured(
            principals=[principal("u"), principal("v")],
            groups=[{"id": each, "name": each, "local_only": each == "b"} for each in "ab"],
            memberships=[member("a", "u"), member("b", "a")],
            roles=roles,
        ),
        NOW,
    ).snapshot
    assert snapshot.principals["u"].roles == {Role.ADMIN}
    assert snapshot.principals["v"].roles == {Role.AUDITOR}
    assert snapshot.groups["a"].managers == {"v"}


@pytest.mark.parametrize(
    ("prices", "cost", "changes_at"),
    [
        ([], 0, None),
        ([price("1", 5, NOW - HOUR)], 5, None),
        ([price("1", 5, NOW - HOUR), price("2", 6, NOW)], 6, None),
        ([price("1", 5, NOW - HOUR), price("2", 6, NOW + HOUR)], 5, NOW + HOUR),
        ([price("1", 5, NOW - 2 * HOUR), price("2", 6, NOW - HOUR, NOW)], 5, None),
        ([price("1", 5, NOW - HOUR), price("2", 6, NOW - HOUR, from_change=2)], 6, None),
        ([price("1", 9, NOW - HOUR), price("2", 5, NOW - 2 * HOUR, corrects="1", from_change=2)], 5, None),
        ([price("1", 5, NOW - HOUR, NOW + HOUR)], 5, NOW + HOUR),
    ],
)
def test_the_price_that_began_last_holds_and_the_next_edge_is_known(
    prices: list[dict[str, Any]], cost: int, changes_at: datetime | None
) -> None:
    assert priced(*prices) == (cost, changes_at)


@pytest.mark.parametrize(("kind", "rate"), [("local", 5), ("external", 0)])
def test_only_the_local_engines_time_has_a_price(kind: str, rate: int) -> None:
    entity = {**ENTITY, "kind": kind}
    rows = configured(endpoints=[ENDPOINT], served_entities=[entity], prices=[price("1", 5, NOW - HOUR)])
    found = build(rows, NOW).snapshot.endpoints["chat"].entities[0].price
    assert (found.per_gpu_second, found.input) == (rate, 5)


def test_an_alias_means_the_endpoint_and_never_hides_another() -> None:
    other = {**ENDPOINT, "id": "f", "name": "talk", "aliases": []}
    alone = build(configured(endpoints=[ENDPOINT]), NOW).snapshot
    assert alone.endpoints["talk"] is alone.endpoints["chat"]
    both = build(configured(endpoints=[ENDPOINT, other]), NOW).snapshot
    assert both.endpoints["talk"].id == "f"


def test_limits_and_budgets_are_read_with_their_windows() -> None:
    limit = {
        "id": "l", "scope": "user_default", "metric": "total_tokens", "window_kind": "rolling", "window_ms": 60000, "amount": 9,
        "subject_id": None, "endpoint_id": None, "mode": "strict", "name": "", "enabled": True,
    }  # fmt: skip
    monthly = {
        **limit,
        "id": "m",
        "window_kind": "calendar",
        "window_unit": "month",
        "time_zone": "Europe/Berlin",
    }
    at_once = {**limit, "id": "n", "window_kind": "none", "metric": "concurrent_requests"}
    budget = {
        "id": "b", "scope": "deployment", "period": "month", "time_zone": "UTC", "amount_nano_usd": 10, "increase_nano_usd": 5,
        "increase_until": NOW + HOUR, "subject_id": None, "endpoint_id": None, "thresholds_percent": [50, 90], "mode": "share",
        "name": "", "enabled": True,
    }  # fmt: skip
    rows = configured(
        limits=[limit, monthly, at_once, {**limit, "id": "o", "enabled": False}], budgets=[budget]
    )
    built = build(rows, NOW)
    first, second, third = built.snapshot.limits
    assert (first.scope, first.metric, first.window) == (
        ScopeKind.USER_DEFAULT,
        Metric.TOTAL_TOKENS,
        Rolling(60000),
    )
    assert second.window == Calendar(Unit.MONTH, "Europe/Berlin")
    assert third.window is None
    assert (built.snapshot.budgets[0].nano_usd, built.stale_at) == (15, NOW + HOUR)
    assert build(rows, NOW + HOUR).snapshot.budgets[0].nano_usd == 10


def test_grants_are_by_endpoint_and_grantee() -> None:
    rows = configured(grants=[{"endpoint_id": "e", "grantee_id": "u", "level": "CAN_QUERY"}])
    snapshot: Snapshot = build(rows, NOW).snapshot
    assert (snapshot.version, snapshot.grants) == (7, {"e": {"u": Level.CAN_QUERY}})


def test_a_row_that_cannot_be_read_fails_the_whole_build() -> None:
    with pytest.raises((ValueError, KeyError)):
        build(configured(grants=[{"endpoint_id": "e", "grantee_id": "u", "level": "CAN_DANCE"}]), NOW)


def test_how_things_are_called_comes_from_their_settings() -> None:
    rows = configured(
        endpoints=[ENDPOINT], served_entities=[ENTITY], groups=[{"id": "g", "name": "g", "local_only": True}]
    )
    snapshot = build(rows, NOW).snapshot
    endpoint = snapshot.endpoints["chat"]
    rules = endpoint.entities[0].rules
    assert (rules.concurrency, rules.replicas, rules.principal_percent) == (9, ("http://two",), 80)
    assert (endpoint.rules.retries, endpoint.config_version) == (1, 3)
    assert snapshot.local_groups == {"g"}


@pytest.mark.parametrize(
    ("fallback", "names", "ranks"),
    [
        (None, ("two", "three", "four"), (("two", "three"), ("four",))),
        (True, ("two", "three", "four", "one"), (("two", "three"), ("four",), ("one",))),
        (False, (), ()),
    ],
)
def test_fallbacks_are_ranked_by_position(fallback: bool | None, names: object, ranks: object) -> None:
    positions = {"one": None, "two": 1, "three": 1, "four": 2}
    entities = [
        {**ENTITY, "id": name, "name": name, "fallback_position": position}
        for name, position in positions.items()
    ]
    chat = {**ENDPOINT, "settings": {"rules": {"fallback": fallback}}}
    endpoint = build(configured(endpoints=[chat], served_entities=entities), NOW).snapshot.endpoints["chat"]
    assert (endpoint.fallbacks, endpoint.ranks) == (names, ranks)
