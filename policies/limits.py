"""Which rate limits bind a caller on an endpoint, by Databricks' rules of precedence.

For one metric, window and span of endpoints: the endpoint's cap always binds; a custom limit of the user or service
principal puts aside the limits of groups and the user default; a custom limit of a group puts aside the user
default. The limits of a caller's groups are any-of by metric, everything else is all-of.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from policies.windows import Calendar, Window

if TYPE_CHECKING:
    from policies.catalog import Endpoint, Snapshot
    from policies.principal import Caller

LARGEST = 2**53 - 1
"""Amounts above this would lose their last digits in Redis' scripts."""


class Metric(StrEnum):
    """What is counted."""

    REQUESTS = "requests"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    TOTAL_TOKENS = "total_tokens"
    CONCURRENT_REQUESTS = "concurrent_requests"
    MONEY = "money"
    """Nano-dollars; of budgets only."""


class ScopeKind(StrEnum):
    """Whose use is counted together."""

    ENDPOINT = "endpoint"
    """Everyone on an endpoint; without an endpoint: each endpoint by itself."""
    USER = "user"
    USER_DEFAULT = "user_default"
    """Each user and service principal by itself, where nothing custom binds it."""
    GROUP = "group"
    """Shared by the group's members."""
    GROUP_DEFAULT = "group_default"
    """Each group by itself, where it has no limit of its own."""
    SERVICE_PRINCIPAL = "service_principal"
    KEY = "key"
    """One API key; without a subject: each key by itself."""
    DEPLOYMENT = "deployment"
    """Everything; of budgets only."""


class Mode(StrEnum):
    """What a limit does while Redis is away; `observe` never refuses at all."""

    STRICT = "strict"
    SHARE = "share"
    OPEN = "open"
    OBSERVE = "observe"


SHARED = frozenset({ScopeKind.ENDPOINT, ScopeKind.GROUP, ScopeKind.GROUP_DEFAULT})
"""Limits that several principals take from: batch work leaves a part of them to interactive calls."""
_WITH_SUBJECT = frozenset({ScopeKind.USER, ScopeKind.GROUP, ScopeKind.SERVICE_PRINCIPAL})


@dataclass(frozen=True, slots=True)
class Limit:
    """A rate limit as it is configured."""

    id: str
    scope: ScopeKind
    metric: Metric
    window: Window | None
    """None for concurrent requests."""
    amount: int
    subject_id: str | None = None
    """The user, group, service principal or key; None where the scope names none."""
    endpoint_id: str | None = None
    """None counts over all endpoints together."""
    mode: Mode = Mode.SHARE
    name: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.amount <= LARGEST:
            raise ValueError(f"limit {self.id}: the amount is {self.amount}; it takes 0 to {LARGEST}")
        if self.metric is Metric.MONEY or self.scope is ScopeKind.DEPLOYMENT:
            raise ValueError(f"limit {self.id}: money and the whole deployment are bounded by budgets")
        if (self.window is None) != (self.metric is Metric.CONCURRENT_REQUESTS):
            raise ValueError(f"limit {self.id}: every metric but concurrent_requests takes a window")
        if self.scope in _WITH_SUBJECT and self.subject_id is None:
            raise ValueError(f"limit {self.id}: scope {self.scope} needs a subject")


@dataclass(frozen=True, slots=True)
class Draw:
    """One counter that a request takes from."""

    limit_id: str
    scope: ScopeKind
    subject: str
    """Whose counter it is: the id of the principal, group, key or endpoint; empty for the deployment."""
    owner: str
    """The same in words, for messages."""
    name: str
    metric: Metric
    window: Window | None
    capacity: int
    mode: Mode
    alternatives: int = 0
    """0: must have room. Others: of the draws with this number, those of one group must have room."""
    group_id: str | None = None
    """The group, for draws of groups."""


@dataclass(frozen=True, slots=True)
class LimitIndex:
    """The limits of one snapshot by whom they may bind and on which endpoint; built once a version."""

    by_subject: dict[tuple[ScopeKind, str | None, str | None], list[Limit]] = field(
        default_factory=dict[tuple[ScopeKind, str | None, str | None], list[Limit]]
    )
    pairs: frozenset[str] = frozenset()
    """Endpoints that a limit of callers names: on these, what binds depends on who calls what."""

    @classmethod
    def of(cls, limits: Iterable[Limit]) -> LimitIndex:
        """Index limits, keeping their order."""
        found: dict[tuple[ScopeKind, str | None, str | None], list[Limit]] = {}
        pairs: set[str] = set()
        for limit in limits:
            found.setdefault((limit.scope, limit.subject_id, limit.endpoint_id), []).append(limit)
            if limit.endpoint_id is not None and limit.scope is not ScopeKind.ENDPOINT:
                pairs.add(limit.endpoint_id)
        return cls(found, frozenset(pairs))

    def of_subject(self, scope: ScopeKind, subject: str | None, endpoint_id: str | None) -> list[Limit]:
        """Limits of one subject that count calls of this endpoint alone, or of all endpoints (None)."""
        return self.by_subject.get((scope, subject, endpoint_id), [])


_Span = tuple[Metric, Window | None]
METRICS = tuple(Metric)


def applicable(
    index: LimitIndex, snapshot: Snapshot, caller: Caller, endpoint: Endpoint, group: str | None = None
) -> list[Draw]:
    """The draws that a call makes: all-of first, then any-of by metric with the groups in order of id.

    `group` (an id) is tried before the caller's other groups. Of shared limits a call sees its caller's share only.
    """
    parts = (
        limits_of_endpoint(index, endpoint, caller.share_percent),
        limits_of_caller(index, snapshot, caller, group, None),
        limits_of_caller(index, snapshot, caller, group, endpoint.id),
    )
    return in_order([each for part in parts for each in part], caller, group)


def limits_of_endpoint(index: LimitIndex, endpoint: Endpoint, share_percent: int = 100) -> list[Draw]:
    """What binds everyone who calls the endpoint."""
    owner = f"endpoint {endpoint.name!r}"
    return _shared_out(
        [
            _draw(each, endpoint.id, owner)
            for subject in (endpoint.id, None)
            for span in (None, endpoint.id)
            for each in index.of_subject(ScopeKind.ENDPOINT, subject, span)
        ],
        share_percent,
    )


def limits_of_caller(
    index: LimitIndex, snapshot: Snapshot, caller: Caller, group: str | None, endpoint_id: str | None
) -> list[Draw]:
    """What binds a caller on all endpoints together (None), or on this one alone; neither looks at the other."""
    who = caller.principal

    def of(scope: ScopeKind, subject: str | None) -> list[Limit]:
        return index.of_subject(scope, subject, endpoint_id)

    custom = of(ScopeKind.USER, who.id) + of(ScopeKind.SERVICE_PRINCIPAL, who.id)
    settled = {_span(each) for each in custom}
    of_groups: list[tuple[str, Limit]] = []
    for each in group_order(who.groups, group):
        own = of(ScopeKind.GROUP, each)
        own_spans = {_span(limit) for limit in own}
        defaults = [limit for limit in of(ScopeKind.GROUP_DEFAULT, None) if _span(limit) not in own_spans]
        of_groups += [(each, limit) for limit in own + defaults if _span(limit) not in settled]
    settled |= {_span(limit) for _, limit in of_groups if limit.scope is ScopeKind.GROUP}
    custom += [each for each in of(ScopeKind.USER_DEFAULT, None) if _span(each) not in settled]
    owner = f"{who.kind.value.replace('_', ' ')} {who.name!r}"
    draws = [_draw(each, who.id, owner) for each in custom]
    counted = caller.counted_key
    if counted is not None:
        for subject in (counted, None):
            draws += [_draw(each, counted, f"API key {counted!r}") for each in of(ScopeKind.KEY, subject)]
    for number, metric in enumerate(METRICS, 1):
        draws += [
            _draw(limit, each, group_words(snapshot, each), number, each)
            for each, limit in of_groups
            if limit.metric is metric
        ]
    return _shared_out(draws, caller.share_percent)


def in_order(draws: list[Draw], caller: Caller, group: str | None = None) -> list[Draw]:
    """All-of first, then the alternatives, those of one group side by side."""
    rank = {each: number for number, each in enumerate(group_order(caller.principal.groups, group), 1)}
    return sorted(draws, key=lambda draw: (draw.alternatives, rank[draw.group_id] if draw.group_id else 0))


def _shared_out(draws: list[Draw], share_percent: int) -> list[Draw]:
    """The same, of shared limits only so much."""
    if share_percent == 100:
        return draws
    return [
        replace(each, capacity=each.capacity * share_percent // 100) if each.scope in SHARED else each
        for each in draws
    ]


def charged_group(charged: Iterable[Draw]) -> str | None:
    """The group that pays where one does, else the first whose limits were charged."""
    of_groups = [draw for draw in charged if draw.group_id]
    paying = [draw for draw in of_groups if draw.metric is Metric.MONEY]
    return (paying or of_groups)[0].group_id if of_groups else None


def group_order(groups: tuple[str, ...], first: str | None) -> tuple[str, ...]:
    """The caller's groups in the order in which they are tried."""
    if first is None or first not in groups:
        return groups
    return (first, *(each for each in groups if each != first))


def group_words(snapshot: Snapshot, group_id: str) -> str:
    """A group in words."""
    group = snapshot.groups.get(group_id)
    return f"group {group.name!r}" if group is not None else f"group {group_id!r}"


def window_words(window: Window | None) -> str:
    """What follows the amount: ` per minute`, ` per calendar day in UTC`, ` at once`."""
    if window is None:
        return " at once"
    if isinstance(window, Calendar) and window.words == "all time":
        return " in all"
    return f" per {window.words}"


def _span(limit: Limit) -> _Span:
    return limit.metric, limit.window


def _draw(limit: Limit, subject: str, owner: str, alternatives: int = 0, group_id: str | None = None) -> Draw:
    return Draw(
        limit.id, limit.scope, subject, owner, limit.name, limit.metric, limit.window, limit.amount, limit.mode,
        alternatives, group_id,
    )  # fmt: skip
