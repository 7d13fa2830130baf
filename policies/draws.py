"""Every limit and budget that a call takes from, in the order in which they are decided.

A call's draws are its endpoint's, then the caller's on all endpoints, then the caller's on this endpoint alone. No part
looks at another, so each can be made once and joined with any other.
"""

from __future__ import annotations

from dataclasses import dataclass

from policies.budgets import BudgetIndex, budgets_of_caller, budgets_of_endpoint, dearest
from policies.catalog import Endpoint, Snapshot
from policies.limits import Draw, LimitIndex, ScopeKind, in_order, limits_of_caller, limits_of_endpoint
from policies.principal import Caller


@dataclass(frozen=True, slots=True)
class Indexes:
    """One snapshot's limits and budgets, ready to be looked up."""

    snapshot: Snapshot
    limits: LimitIndex
    budgets: BudgetIndex
    by_key: bool
    """Whether any rule counts an API key apart: else all keys of a principal share one plan."""
    pairs: frozenset[str]
    """Endpoints that a rule of callers names: elsewhere a caller and an endpoint have nothing of their own together."""

    @classmethod
    def of(cls, snapshot: Snapshot) -> Indexes:
        """Index a snapshot."""
        by_key = any(each.scope is ScopeKind.KEY for each in (*snapshot.limits, *snapshot.budgets))
        limits, budgets = LimitIndex.of(snapshot.limits), BudgetIndex.of(snapshot.budgets)
        return cls(snapshot, limits, budgets, by_key, limits.pairs | budgets.pairs)


def draws_of(indexes: Indexes, caller: Caller, endpoint: Endpoint, group: str | None = None) -> list[Draw]:
    """Every draw of a call: those that must have room first, then the alternatives."""
    money = not dearest(endpoint).free
    draws = endpoint_draws(indexes, endpoint, caller.share_percent, money=money)
    draws += caller_draws(indexes, caller, group, None, money=money)
    if endpoint.id in indexes.pairs:
        draws += caller_draws(indexes, caller, group, endpoint.id, money=money)
    return in_order(draws, caller, group)


def endpoint_draws(indexes: Indexes, endpoint: Endpoint, share_percent: int, *, money: bool) -> list[Draw]:
    """The part of whoever calls this endpoint; budgets where it can cost `money`. All of these must have room."""
    draws = limits_of_endpoint(indexes.limits, endpoint, share_percent)
    return draws + budgets_of_endpoint(indexes.budgets, endpoint) if money else draws


def caller_draws(
    indexes: Indexes, caller: Caller, group: str | None, endpoint_id: str | None, *, money: bool
) -> list[Draw]:
    """The part of a caller on all endpoints together (None), or on this one alone; in order by itself."""
    draws = limits_of_caller(indexes.limits, indexes.snapshot, caller, group, endpoint_id)
    if money:
        draws += budgets_of_caller(indexes.budgets, indexes.snapshot, caller, group, endpoint_id)
        draws = in_order(draws, caller, group)
    return draws
