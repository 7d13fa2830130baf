"""What an explanation says of identity, permission, limits and what pays, by table; it never departs from the decision."""

from __future__ import annotations

from typing import Any

import pytest

from policies.budgets import Budget, BudgetIndex, budget_draws
from policies.catalog import Endpoint, EntityKind, Price, ServedEntity, Snapshot
from policies.explanation import Explanation, differences, explain
from policies.explanation_words import lines
from policies.limits import Limit, LimitIndex, Metric, Mode, ScopeKind, applicable
from policies.permissions import Level
from policies.principal import Caller, Group, Principal, PrincipalKind, Role
from policies.windows import MINUTE, Calendar, Unit

PRICED = Price("p1", input=1_000_000_000, output=2_000_000_000)
ENTITIES = (
    ServedEntity("s1", "mixtral", EntityKind.LOCAL, "vllm", "mixtral-demo", PRICED),
    ServedEntity("s2", "spare", EntityKind.EXTERNAL, "openai", "gpt", Price("p2"), "https://other.test"),
)
CHAT = Endpoint("e1", "chat", "llm/v1/chat", ENTITIES, split=(("mixtral", 100),), fallbacks=("spare",))
GROUPS = {"g1": Group("g1", "science"), "g2": Group("g2", "lab", parents=("g1",))}


def limit(id: str, scope: ScopeKind, amount: int = 100, subject: str | None = None, **more: Any) -> Limit:
    return Limit(id, scope, Metric.REQUESTS, MINUTE, amount, subject, name=id, **more)


def explained(*rules: Limit | Budget, used: list[int] | None = None, **who: Any) -> Explanation:
    values: dict[str, Any] = {"groups": ("g1", "g2"), **who}
    alice = Principal("u", PrincipalKind.USER, "alice", **values)
    snapshot = Snapshot(
        7,
        principals={"u": alice},
        groups=GROUPS,
        endpoints={"chat": CHAT},
        grants={"e1": {"g1": Level.CAN_QUERY}},
        limits=tuple(each for each in rules if isinstance(each, Limit)),
        budgets=tuple(each for each in rules if isinstance(each, Budget)),
    )
    caller = Caller(alice)
    draws = applicable(LimitIndex.of(snapshot.limits), snapshot, caller, CHAT)
    draws += budget_draws(BudgetIndex.of(snapshot.budgets), snapshot, caller, CHAT)
    return explain(snapshot, caller, CHAT, sorted(draws, key=lambda draw: draw.alternatives), used)


def why(found: Explanation) -> dict[str, str]:
    return {each.id: each.why for each in found.put_aside}


def test_it_names_the_group_that_permits_and_the_one_that_this_came_through() -> None:
    found = explained()
    assert found.admits
    assert found.decided_by == "grant to group g1"
    text = "\n".join(lines(found))
    assert "group 'science' (g1), through 'lab'" in text
    assert "group 'lab' (g2), directly" in text
    assert "CAN_QUERY granted to group 'science'" in text


def test_without_a_grant_the_default_is_no_and_says_what_is_missing() -> None:
    found = explained(groups=())
    assert not found.admits
    assert "default deny" in found.decided_by
    assert "CAN_QUERY" in found.decided_by


def test_an_inactive_principal_is_refused_whatever_was_granted() -> None:
    found = explained(active=False, roles=frozenset({Role.ADMIN}))
    assert not found.admits
    assert "not active" in found.decided_by


def test_a_custom_limit_of_the_user_puts_aside_its_groups_and_the_default_and_is_named_for_it() -> None:
    found = explained(
        limit("mine", ScopeKind.USER, subject="u"),
        limit("group", ScopeKind.GROUP, subject="g1"),
        limit("default", ScopeKind.USER_DEFAULT),
        limit("everybody", ScopeKind.ENDPOINT, subject="e1"),
        limit("other", ScopeKind.USER, subject="v"),
    )
    assert [each.draw.limit_id for each in found.bound] == ["everybody", "mine"]
    assert "put aside by the user rule 'mine'" in why(found)["group"]
    assert "put aside by the user rule 'mine'" in why(found)["default"]
    assert found.others == 1
    assert found.group_id is None


def test_a_limit_of_a_group_puts_the_user_default_aside_and_the_first_group_with_room_pays() -> None:
    rules = (
        limit("first", ScopeKind.GROUP, 10, "g1"),
        limit("second", ScopeKind.GROUP, 10, "g2"),
        limit("default", ScopeKind.USER_DEFAULT),
    )
    assert explained(*rules).group_id == "g1"
    assert explained(*rules, used=[10, 3]).group_id == "g2"
    assert "put aside by" in why(explained(*rules))["default"]
    full = explained(*rules, used=[10, 10])
    assert not full.admits
    assert "first" in full.decided_by


def test_a_limit_of_nothing_refuses_and_one_that_only_observes_does_not() -> None:
    assert not explained(limit("closed", ScopeKind.USER, 0, "u")).admits
    assert explained(limit("watched", ScopeKind.USER, 0, "u", mode=Mode.OBSERVE)).admits


def test_a_limit_on_another_endpoint_says_so() -> None:
    found = explained(limit("there", ScopeKind.USER, subject="u", endpoint_id="e2"))
    assert why(found)["there"] == "counts calls of another endpoint only"


def test_the_group_that_pays_comes_before_the_one_that_only_counts() -> None:
    month = Calendar(Unit.MONTH)
    found = explained(
        limit("count", ScopeKind.GROUP, subject="g1"),
        Budget("b", ScopeKind.GROUP, month, 5_000_000_000, "g2"),
    )
    assert found.group_id == "g2"
    assert any("$5.00 per calendar month in UTC" in each.words for each in found.bound)


def test_it_lists_what_may_answer_in_order_with_the_version_of_each_price() -> None:
    first, second = explained().candidates
    assert (first.entity.id, second.entity.id) == ("s1", "s2")
    assert "first choice" in first.words
    assert "price p1: $1.00 in and $2.00 out" in first.words
    assert "fallback 1" in second.words


@pytest.mark.parametrize(
    ("charged", "group_id", "told"),
    [
        ({"mine": 1}, None, []),
        ({}, None, ["was not charged"]),
        ({"mine": 1, "ghost": 1}, None, ["ghost was charged"]),
        ({"mine": 1}, "g1", ["group g1 was charged"]),
    ],
)
def test_what_happened_is_held_against_it(
    charged: dict[str, int], group_id: str | None, told: list[str]
) -> None:
    found = explained(limit("mine", ScopeKind.USER, subject="u"))
    differs = differences(found, charged=charged, group_id=group_id, degraded=False)
    assert len(differs) == len(told)
    assert all(part in each for part, each in zip(told, differs, strict=True))
