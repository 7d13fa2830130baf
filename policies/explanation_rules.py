"""Why a limit or budget that concerns a caller does not bind its call.

Found by asking the function that decides once more, without the rule that may stand in the way: precedence is written
down in one place only.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from policies.budgets import Budget, BudgetIndex, budget_draws, dearest
from policies.catalog import Endpoint, Snapshot
from policies.limits import Draw, Limit, LimitIndex, Metric, ScopeKind, applicable
from policies.principal import Caller


@dataclass(frozen=True, slots=True)
class PutAside:
    """A limit or budget that concerns the caller and does not bind this call."""

    id: str
    name: str
    why: str


def set_aside(
    snapshot: Snapshot, caller: Caller, endpoint: Endpoint, draws: Sequence[Draw]
) -> tuple[tuple[PutAside, ...], int]:
    """Those that concern the caller and do not bind, and how many more are of somebody else."""
    binding = {draw.limit_id for draw in draws}
    aside: list[PutAside] = []
    others = 0
    everything: tuple[Limit | Budget, ...] = (*snapshot.limits, *snapshot.budgets)
    for each in everything:
        if each.id in binding:
            continue
        if not _concerns(each, caller, endpoint):
            others += 1
        else:
            aside.append(PutAside(each.id, each.name, _why_not(snapshot, caller, endpoint, each, draws)))
    return tuple(aside), others


def _concerns(rule: Limit | Budget, caller: Caller, endpoint: Endpoint) -> bool:
    who = caller.principal
    match rule.scope:
        case ScopeKind.USER | ScopeKind.SERVICE_PRINCIPAL:
            return rule.subject_id == who.id
        case ScopeKind.GROUP:
            return rule.subject_id in who.groups
        case ScopeKind.GROUP_DEFAULT:
            return bool(who.groups)
        case ScopeKind.KEY:
            return caller.key_id is not None and rule.subject_id in (None, caller.key_id)
        case ScopeKind.ENDPOINT:
            return rule.subject_id in (None, endpoint.id)
        case _:
            return True


def _why_not(
    snapshot: Snapshot, caller: Caller, endpoint: Endpoint, rule: Limit | Budget, draws: Sequence[Draw]
) -> str:
    if rule.endpoint_id not in (None, endpoint.id):
        return "counts calls of another endpoint only"
    if isinstance(rule, Budget) and dearest(endpoint).free:
        return "nothing that answers for this endpoint costs anything, so no budget binds"
    rivals = {draw.limit_id: draw for draw in draws}
    for rival, draw in rivals.items():
        if _binds(snapshot, caller, endpoint, rule, rivals.keys() - {rival}):
            return f"put aside by {_rival(draw)}"
    metric = Metric.MONEY if isinstance(rule, Budget) else rule.metric
    return "put aside by " + " and ".join(_rival(each) for each in rivals.values() if each.metric is metric)


def _binds(
    snapshot: Snapshot, caller: Caller, endpoint: Endpoint, rule: Limit | Budget, beside: Set[str]
) -> bool:
    """Whether the rule would bind if of those that do there were only these: asked of the function that decides."""
    if isinstance(rule, Budget):
        budgets = [each for each in snapshot.budgets if each is rule or each.id in beside]
        found = budget_draws(BudgetIndex.of(budgets), snapshot, caller, endpoint)
    else:
        limits = [each for each in snapshot.limits if each is rule or each.id in beside]
        found = applicable(LimitIndex.of(limits), snapshot, caller, endpoint)
    return any(draw.limit_id == rule.id for draw in found)


def _rival(draw: Draw) -> str:
    return f"the {draw.scope.value.replace('_', ' ')} rule {draw.name or draw.limit_id!r} of {draw.owner}"
