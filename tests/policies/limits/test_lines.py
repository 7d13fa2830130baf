"""Keys of one line count together: a rotated key, or one made with another, opens no count of its own."""

from __future__ import annotations

from dataclasses import replace

from policies.budgets import Budget, BudgetIndex, budget_draws
from policies.catalog import Endpoint, Snapshot
from policies.limits import Limit, LimitIndex, Metric, ScopeKind, applicable
from policies.principal import Caller, Principal, PrincipalKind
from policies.windows import MINUTE, Calendar, Unit

FIRST = Caller(Principal("alice", PrincipalKind.USER, "Alice"), key_id="k1")
LATER = replace(FIRST, key_id="k2", counts_as="k1")
OTHER = replace(FIRST, key_id="k3")
CHAT = Endpoint("ep1", "chat", "llm/v1/chat", ())


def test_a_later_key_takes_from_the_limits_and_budgets_of_the_first() -> None:
    limits = LimitIndex.of(
        Limit(each, ScopeKind.KEY, Metric.REQUESTS, MINUTE, 5, subject)
        for each, subject in (("named", "k1"), ("each", None))
    )
    budgets = BudgetIndex.of(
        Budget(each, ScopeKind.KEY, Calendar(Unit.MONTH), 5, subject)
        for each, subject in (("named", "k1"), ("each", None))
    )
    found = {
        caller.key_id: [
            (draw.limit_id, draw.subject)
            for draw in (
                *applicable(limits, Snapshot(1), caller, CHAT),
                *budget_draws(budgets, Snapshot(1), caller, CHAT),
            )
        ]
        for caller in (FIRST, LATER, OTHER)
    }
    assert found["k1"] == [("named", "k1"), ("each", "k1")] * 2
    assert found["k2"] == found["k1"]
    assert found["k3"] == [("each", "k3")] * 2
