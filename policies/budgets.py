"""Budgets: money that a scope may spend in a period, reserved at the dearest price that routing may choose.

Integer nano-dollars throughout. A budget has no mode `open`: money is never admitted unseen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from policies.limits import (
    LARGEST,
    METRICS,
    Draw,
    Metric,
    Mode,
    ScopeKind,
    group_order,
    group_words,
    in_order,
)
from policies.windows import Calendar

if TYPE_CHECKING:
    from policies.catalog import Endpoint, Snapshot
    from policies.principal import Caller

NANO = 1_000_000_000
MILLION = 1_000_000
ENGINE_US_AHEAD = 1_000_000
"""Time in the engine before the first token that is reserved where engine time costs something."""
ENGINE_US_PER_TOKEN = 50_000
"""And for each output token: 20 tokens a second. The settlement corrects both to what it took."""
_MONEY_SET = METRICS.index(Metric.MONEY) + 1


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget as it is configured."""

    id: str
    scope: ScopeKind
    period: Calendar
    nano_usd: int
    subject_id: str | None = None
    """The user, group, service principal, key or endpoint; None for defaults and the deployment."""
    endpoint_id: str | None = None
    """Counts only what was spent on this endpoint; None counts all of it."""
    thresholds: tuple[int, ...] = ()
    """Percentages at which an event is raised, ascending."""
    mode: Mode = Mode.SHARE
    """`strict`, `share` or `observe`."""
    name: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.nano_usd <= LARGEST:
            raise ValueError(f"budget {self.id}: {self.nano_usd} nano-dollars; it takes 0 to {LARGEST}")
        if self.mode is Mode.OPEN:
            raise ValueError(f"budget {self.id}: a budget takes strict, share or observe, never open")
        if any(not 0 < each <= 100 for each in self.thresholds) or list(self.thresholds) != sorted(
            set(self.thresholds)
        ):
            raise ValueError(f"budget {self.id}: thresholds are ascending percentages from 1 to 100")


@dataclass(frozen=True, slots=True)
class Rates:
    """The dearest prices over an endpoint's served entities, class by class; nano-dollars."""

    input_per_million: int
    output_per_token: int
    per_request: int

    @property
    def free(self) -> bool:
        """Whether nothing can cost anything."""
        return self == _FREE

    def fixed(self, prompt_tokens: int) -> int:
        """What the request costs at most before its first output token."""
        return -(-prompt_tokens * self.input_per_million // MILLION) + self.per_request


_FREE = Rates(0, 0, 0)


def dearest(endpoint: Endpoint) -> Rates:
    """The prices to reserve at: of each class the dearest that routing may choose, fallbacks included."""
    prices = [each.price for each in endpoint.entities]
    if not prices:
        return _FREE
    output = max(
        max(each.output, each.reasoning) + ENGINE_US_PER_TOKEN * each.per_gpu_second for each in prices
    )
    ahead = (-(-ENGINE_US_AHEAD * each.per_gpu_second // MILLION) for each in prices)
    return Rates(
        input_per_million=max(max(each.input, each.cache_read, each.cache_write) for each in prices),
        output_per_token=-(-output // MILLION),
        per_request=max(
            max(each.per_request + more, each.per_cache_hit) for each, more in zip(prices, ahead, strict=True)
        ),
    )


@dataclass(frozen=True, slots=True)
class BudgetIndex:
    """The budgets of one snapshot by whom they bind and on which endpoint; built once a version."""

    by_subject: dict[tuple[ScopeKind, str | None, str | None], list[Budget]] = field(
        default_factory=dict[tuple[ScopeKind, str | None, str | None], list[Budget]]
    )
    pairs: frozenset[str] = frozenset()
    """Endpoints that a budget of callers names: on these, what pays depends on who calls what."""

    @classmethod
    def of(cls, budgets: Iterable[Budget]) -> BudgetIndex:
        """Index budgets, keeping their order."""
        found: dict[tuple[ScopeKind, str | None, str | None], list[Budget]] = {}
        pairs: set[str] = set()
        for budget in budgets:
            found.setdefault((budget.scope, budget.subject_id, budget.endpoint_id), []).append(budget)
            if budget.endpoint_id is not None and budget.scope not in _OF_ENDPOINTS:
                pairs.add(budget.endpoint_id)
        return cls(found, frozenset(pairs))

    def of_subject(self, scope: ScopeKind, subject: str | None, endpoint_id: str | None) -> list[Budget]:
        """Budgets of one subject that pay for calls of this endpoint alone, or of all endpoints (None)."""
        return self.by_subject.get((scope, subject, endpoint_id), [])


_OF_ENDPOINTS = frozenset({ScopeKind.ENDPOINT, ScopeKind.DEPLOYMENT})


def budget_draws(
    index: BudgetIndex, snapshot: Snapshot, caller: Caller, endpoint: Endpoint, group: str | None = None
) -> list[Draw]:
    """The budgets that pay for a call, all-of first, then the caller's groups of which the first with money pays."""
    parts = (
        budgets_of_endpoint(index, endpoint),
        budgets_of_caller(index, snapshot, caller, group, None),
        budgets_of_caller(index, snapshot, caller, group, endpoint.id),
    )
    return in_order([each for part in parts for each in part], caller, group)


def budgets_of_endpoint(index: BudgetIndex, endpoint: Endpoint) -> list[Draw]:
    """What pays whoever calls the endpoint."""
    if not index.by_subject:
        return []
    of, owner = index.of_subject, f"endpoint {endpoint.name!r}"
    draws = [_draw(each, "", "the deployment") for each in of(ScopeKind.DEPLOYMENT, None, endpoint.id)]
    return draws + [
        _draw(each, endpoint.id, owner)
        for subject in (endpoint.id, None)
        for span in (None, endpoint.id)
        for each in of(ScopeKind.ENDPOINT, subject, span)
    ]


def budgets_of_caller(
    index: BudgetIndex, snapshot: Snapshot, caller: Caller, group: str | None, endpoint_id: str | None
) -> list[Draw]:
    """What pays for a caller on all endpoints together (None), or on this one alone; neither looks at the other.

    A user's own budget puts the user default aside for the same kind of period, whatever the two time zones.
    """
    if not index.by_subject:
        return []
    who = caller.principal

    def of(scope: ScopeKind, subject: str | None) -> list[Budget]:
        return index.of_subject(scope, subject, endpoint_id)

    draws: list[Draw] = []
    if endpoint_id is None:
        draws += [_draw(each, "", "the deployment") for each in of(ScopeKind.DEPLOYMENT, None)]
    own = of(ScopeKind.USER, who.id) + of(ScopeKind.SERVICE_PRINCIPAL, who.id)
    own += _not_overridden(of(ScopeKind.USER_DEFAULT, None), own)
    draws += [_draw(each, who.id, f"{who.kind.value.replace('_', ' ')} {who.name!r}") for each in own]
    counted = caller.counted_key
    if counted is not None:
        for subject in (counted, None):
            draws += [_draw(each, counted, f"API key {counted!r}") for each in of(ScopeKind.KEY, subject)]
    for each in group_order(who.groups, group):
        shared = of(ScopeKind.GROUP, each)
        shared = shared + _not_overridden(of(ScopeKind.GROUP_DEFAULT, None), shared)
        draws += [_draw(budget, each, group_words(snapshot, each), _MONEY_SET, each) for budget in shared]
    return draws


def _not_overridden(defaults: list[Budget], own: list[Budget]) -> list[Budget]:
    units = {each.period.unit for each in own}
    return [each for each in defaults if each.period.unit not in units]


def _draw(
    budget: Budget, subject: str, owner: str, alternatives: int = 0, group_id: str | None = None
) -> Draw:
    return Draw(
        budget.id, budget.scope, subject, owner, budget.name, Metric.MONEY, budget.period, budget.nano_usd,
        budget.mode, alternatives, group_id,
    )  # fmt: skip
