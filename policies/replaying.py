"""Past calls decided once more, in the order in which they were decided: as it was, or under another policy.

As it was: the decision is made again from what is on record of its circumstances, and nothing of what was decided is
looked at. Under another policy the counters follow what that policy would have admitted.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from policies.budgets import Rates, dearest
from policies.catalog import Endpoint, Snapshot
from policies.decision import Decision, Deny
from policies.draws import Indexes, draws_of
from policies.levels import Levels
from policies.limits import Draw, Metric, charged_group
from policies.permissions import Level, may
from policies.principal import Caller
from policies.weighing import (
    SOON_SECONDS,
    Ask,
    Granted,
    fixed_amount,
    retry_after_seconds,
    token_amount,
    weigh,
)


@dataclass(frozen=True, slots=True)
class Key:
    """What of an API key a decision looks at."""

    id: str
    endpoints: frozenset[str] | None
    counts_as: str | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided of a call, or is now."""

    admitted: bool
    code: str = ""
    """As the caller was told; empty for an admission."""
    limit_id: str | None = None
    """The limit or budget without room."""
    group_id: str | None = None
    """The group that was charged."""
    output: int = 0
    """Output tokens granted at first."""
    wait_ms: int = field(default=0, compare=False)
    """Until there is room; -1 for never. Not on record, so not compared."""

    @property
    def throttled(self) -> bool:
        """Whether waiting a moment would have helped."""
        return self.code == "rate_limit_exceeded"


@dataclass(frozen=True, slots=True)
class Use:
    """What an admitted call used in the end."""

    ended_ms: int
    prompt_tokens: int
    completion_tokens: int
    cost_nano_usd: int


@dataclass(frozen=True, slots=True)
class Past:
    """A call as it was asked, what became of it, and the configuration that decided it."""

    id: str
    """The request; empty for a refusal, which has none in the books."""
    at_ms: int
    principal_id: str
    principal_name: str
    endpoint_id: str
    endpoint_name: str
    key: Key | None
    ask: Ask
    group: str | None
    groups: tuple[str, ...] | None
    share_percent: int
    seen: tuple[int, ...]
    """What the counters showed, draw by draw; -1 where it is not on record."""
    normal: bool
    """It was decided in normal mode and all that decided it is on record."""
    was: Verdict
    charged: frozenset[tuple[str, str]]
    """Limit and subject of what was charged."""
    use: Use | None


@dataclass(frozen=True, slots=True)
class Replayed:
    """A call with what is decided of it now; None where that cannot be said: who or what it is about is not there."""

    past: Past
    now: Verdict | None
    draw: Draw | None = None
    """The limit or budget without room."""

    @property
    def differs(self) -> bool:
        """Whether it is decided differently."""
        return self.now is not None and self.now != self.past.was


Charges = list[tuple[Draw, int]]
_MOST = 4_096
"""Situations that are kept; beyond that all are found anew when asked for."""


@dataclass(frozen=True, slots=True)
class _Held:
    draw: Draw
    position: int
    amount: int


class _Course:
    """The counters of one course of events, with the corrections that are still to come."""

    def __init__(self) -> None:
        self.levels = Levels()
        self._coming: list[tuple[int, int, Use, tuple[_Held, ...]]] = []
        self._number = 0

    def until(self, now_ms: int) -> None:
        """Correct what has ended by then."""
        while self._coming and self._coming[0][0] <= now_ms:
            at_ms, _, use, held = heapq.heappop(self._coming)
            for each in held:
                actual = _actual(each.draw.metric, use)
                if actual is not None:
                    self.levels.correct(each.draw, at_ms, each.position, actual - each.amount)

    def admit(self, charges: Sequence[tuple[Draw, int]], now_ms: int, use: Use | None) -> None:
        """Charge a call; without a known use it counts for all that it reserved, and has ended at once."""
        held = tuple(
            _Held(draw, self.levels.charge(draw, now_ms, amount), amount) for draw, amount in charges
        )
        if use is not None:
            self._number += 1
            heapq.heappush(self._coming, (max(now_ms, use.ended_ms), self._number, use, held))
            return
        for each in held:
            if each.draw.metric is Metric.CONCURRENT_REQUESTS:
                self.levels.correct(each.draw, now_ms, each.position, -each.amount)


def _actual(metric: Metric, use: Use) -> int | None:
    match metric:
        case Metric.REQUESTS:
            return None
        case Metric.CONCURRENT_REQUESTS:
            return 0
        case Metric.INPUT_TOKENS:
            return use.prompt_tokens
        case Metric.OUTPUT_TOKENS:
            return use.completion_tokens
        case Metric.TOTAL_TOKENS:
            return use.prompt_tokens + use.completion_tokens
        case Metric.MONEY:
            return use.cost_nano_usd


@dataclass(frozen=True, slots=True)
class Situation:
    """What a configuration has to say of a caller on an endpoint, whatever the counters show."""

    permission: Decision
    draws: list[Draw]
    rates: Rates


class Replay:
    """Decides past calls one by one; they come in the order in which they were decided."""

    def __init__(self, *, as_it_was: bool) -> None:
        """As it was, counters are brought to what they showed; else they follow from the calls alone."""
        self.corrected = 0
        """Counters that showed something else than what follows from the calls: top-ups, and ends that crossed."""
        self._as_it_was = as_it_was
        self._course = _Course()
        self._snapshot: Snapshot | None = None
        self._indexes: Indexes
        self._endpoints: dict[str, Endpoint] = {}
        self._situations: dict[tuple[object, ...], Situation | None] = {}

    def count(self, past: Past, snapshot: Snapshot) -> None:
        """Take in a call from before the period: its use counts, and nothing is decided."""
        situation = self._situation(past, snapshot)
        if situation is None or not past.was.admitted:
            return
        self._course.until(past.at_ms)
        if self._as_it_was:
            charges = _recorded(past, situation.draws, situation.rates)
        else:
            charges = self._whatever_the_level(past, situation.draws, situation.rates)
        self._course.admit(charges, past.at_ms, past.use)

    def decide(self, past: Past, snapshot: Snapshot) -> Replayed:
        """Decide a call under a configuration, and let it count."""
        situation = self._situation(past, snapshot)
        if situation is None:
            return Replayed(past, None)
        course, draws = self._course, situation.draws
        course.until(past.at_ms)
        if self._as_it_was:
            self._see(past, draws)
        charges: Charges = []
        draw = None
        match situation.permission:
            case Deny(code=code):
                now = Verdict(False, code)
            case _:
                decided = weigh(draws, course.levels, past.at_ms, past.ask, situation.rates)
                if isinstance(decided, Granted):
                    charges = [(draws[index], amount) for index, amount in decided.charges]
                    now = Verdict(
                        True, group_id=charged_group(each for each, _ in charges), output=decided.output
                    )
                else:
                    draw = draws[decided.index]
                    now = _refused(draw, decided.wait_ms)
        course.admit(charges, past.at_ms, past.use)
        return Replayed(past, now, draw)

    def _whatever_the_level(self, past: Past, draws: Sequence[Draw], rates: Rates) -> Charges:
        """What a call is charged to that was admitted before this policy: where it would have had no room, it counts still."""
        decided = weigh(draws, self._course.levels, past.at_ms, past.ask, rates)
        if isinstance(decided, Granted):
            return [(draws[index], amount) for index, amount in decided.charges]
        binding = [each for each in draws if not each.alternatives or each.group_id == past.was.group_id]
        return _amounts(binding, past, rates)

    def _see(self, past: Past, draws: Sequence[Draw]) -> None:
        """Bring the counters to what they showed."""
        levels, at_ms = self._course.levels, past.at_ms
        for draw, seen in zip(draws, past.seen, strict=False):
            if seen < 0:
                continue
            used = levels.used(draw, at_ms)
            # Of a counter that is over its limit a refusal told no more than that nothing is left.
            if used < seen or (used > seen != draw.capacity):
                levels.set(draw, at_ms, seen)
                self.corrected += 1

    def _situation(self, past: Past, snapshot: Snapshot) -> Situation | None:
        if self._snapshot is not snapshot:
            self._snapshot, self._indexes = snapshot, Indexes.of(snapshot)
            self._endpoints = {each.id: each for each in snapshot.endpoints.values()}
            self._situations.clear()
        of = (past.principal_id, past.endpoint_id, past.key, past.group, past.groups, past.share_percent)
        if of not in self._situations:
            if len(self._situations) >= _MOST:
                self._situations.clear()
            self._situations[of] = self._found(past, snapshot)
        return self._situations[of]

    def _found(self, past: Past, snapshot: Snapshot) -> Situation | None:
        principal, endpoint = (
            snapshot.principals.get(past.principal_id),
            self._endpoints.get(past.endpoint_id),
        )
        if principal is None or endpoint is None:
            return None
        if past.groups is not None:
            principal = replace(principal, groups=past.groups)
        caller = Caller(principal, share_percent=past.share_percent)
        if past.key is not None:
            caller = replace(
                caller, key_id=past.key.id, endpoints=past.key.endpoints, counts_as=past.key.counts_as
            )
        permission = may(snapshot, caller, Level.CAN_QUERY, endpoint)
        draws = draws_of(self._indexes, caller, endpoint, past.group)
        return Situation(permission, draws, dearest(endpoint))


def _refused(draw: Draw, wait_ms: int) -> Verdict:
    soon = draw.metric is not Metric.MONEY and retry_after_seconds(draw, wait_ms) <= SOON_SECONDS
    return Verdict(
        False, "rate_limit_exceeded" if soon else "insufficient_quota", draw.limit_id, wait_ms=wait_ms
    )


def _recorded(past: Past, draws: Sequence[Draw], rates: Rates) -> Charges:
    return _amounts([each for each in draws if (each.limit_id, each.subject) in past.charged], past, rates)


def _amounts(draws: Sequence[Draw], past: Past, rates: Rates) -> Charges:
    output = past.was.output
    return [
        (each, fixed_amount(each, past.ask, rates) + token_amount(each, rates) * output) for each in draws
    ]


__all__ = ["Key", "Past", "Replay", "Replayed", "Use", "Verdict"]
