"""Every limit and budget that a call takes from, in the order in which they are decided."""

from __future__ import annotations

from dataclasses import dataclass

from policies.budgets import BudgetIndex, budget_draws, dearest
from policies.catalog import Endpoint, Snapshot
from policies.limits import Draw, LimitIndex, ScopeKind, applicable
from policies.principal import Caller


@dataclass(frozen=True, slots=True)
class Indexes:
    """One snapshot's limits and budgets, ready to be looked up."""

    snapshot: Snapshot
    limits: LimitIndex
    budgets: BudgetIndex
    by_key: bool
    """Whether any rule counts an API key apart: else all keys of a principal share one plan."""

    @classmethod
    def of(cls, snapshot: Snapshot) -> Indexes:
        """Index a snapshot."""
        by_key = any(each.scope is ScopeKind.KEY for each in (*snapshot.limits, *snapshot.budgets))
        return cls(snapshot, LimitIndex.of(snapshot.limits), BudgetIndex.of(snapshot.budgets), by_key)


def draws_of(indexes: Indexes, caller: Caller, endpoint: Endpoint, group: str | None = None) -> list[Draw]:
    """Every draw of a call: those that must have room first, then the alternatives."""
    draws = applicable(indexes.limits, indexes.snapshot, caller, endpoint, group)
    if not dearest(endpoint).free:
        draws += budget_draws(indexes.budgets, indexes.snapshot, caller, endpoint, group)
    return sorted(draws, key=lambda draw: draw.alternatives)
