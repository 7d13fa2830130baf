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
    """The limits of one snapshot by whom they may bind; built once a version."""

    by_subject: dict[tuple[ScopeKind, str | None], tuple[Limit, ...]] = field(
        default_factory=dict[tuple[ScopeKind, str | None], tuple[Limit, ...]]
    )

    @classmethod
    def of(cls, limits: Iterable[Limit]) -> LimitIndex:
        """Index limits, keeping their order."""
        found: dict[tuple[ScopeKind, str | None], list[Limit]] = {}
        for limit in limits:
            found.setdefault((limit.scope, limit.subject_id), []).append(limit)
        return cls({key: tuple(each) for key, each in found.items()})

    def of_subject(self, scope: ScopeKind, subject: str | None, endpoint: Endpoint) -> list[Limit]:
        """Limits of one subject that count calls of the endpoint."""
        found = self.by_subject.get((scope, subject), ())
        return [each for each in found if each.endpoint_id is None or each.endpoint_id == endpoint.id]


_Span = tuple[Metric, Window | None, str | None]
METRICS = tuple(Metric)


def applicable(
    index: LimitIndex, snapshot: Snapshot, caller: Caller, endpoint: Endpoint, group: str | None = None
) -> list[Draw]:
    """The draws that a call makes: all-of first, then any-of by metric with the groups in order of id.

    `group` (an id) is tried before the caller's other groups. Of shared limits a call sees its caller's share only.
    """
    who = caller.principal
    of = index.of_subject
    draws = [
        _draw(each, endpoint.id, f"endpoint {endpoint.name!r}")
        for subject in (endpoint.id, None)
        for each in of(ScopeKind.ENDPOINT, subject, endpoint)
    ]
    custom = of(ScopeKind.USER, who.id, endpoint) + of(ScopeKind.SERVICE_PRINCIPAL, who.id, endpoint)
    settled = {_span(each) for each in custom}
    of_groups: list[tuple[str, Limit]] = []
    for each in group_order(who.groups, group):
        own = of(ScopeKind.GROUP, each, endpoint)
        own_spans = {_span(limit) for limit in own}
        defaults = [
            limit for limit in of(ScopeKind.GROUP_DEFAULT, None, endpoint) if _span(limit) not in own_spans
        ]
        of_groups += [(each, limit) for limit in own + defaults if _span(limit) not in settled]
    settled |= {_span(limit) for _, limit in of_groups if limit.scope is ScopeKind.GROUP}
    custom += [each for each in of(ScopeKind.USER_DEFAULT, None, endpoint) if _span(each) not in settled]
    owner = f"{who.kind.value.replace('_', ' ')} {who.name!r}"
    draws += [_draw(each, who.id, owner) for each in custom]
    counted = caller.counted_key
    if counted is not None:
        for subject in (counted, None):
            keyed = of(ScopeKind.KEY, subject, endpoint)
            draws += [_draw(each, counted, f"API key {counted!r}") for each in keyed]
    for number, metric in enumerate(METRICS, 1):
        draws += [
            _draw(limit, each, group_words(snapshot, each), number, each)
            for each, limit in of_groups
            if limit.metric is metric
        ]
    if caller.share_percent == 100:
        return draws
    return [
        replace(each, capacity=each.capacity * caller.share_percent // 100) if each.scope in SHARED else each
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
    return limit.metric, limit.window, limit.endpoint_id


def _draw(limit: Limit, subject: str, owner: str, alternatives: int = 0, group_id: str | None = None) -> Draw:
    return Draw(
        limit.id, limit.scope, subject, owner, limit.name, limit.metric, limit.window, limit.amount, limit.mode,
        alternatives, group_id,
    )  # fmt: skip
