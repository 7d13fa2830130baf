"""Deciding without Redis: each limit by its mode, in windows of this worker's own of the same shape.

In `share` each of N workers admits at most T/N a window, so that together they stay within T. What was admitted
meanwhile is reported to Redis on return, where it still counts. Money is never admitted beyond a share.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.counters.plan import Plan
from gateway.counters.taps import CONCURRENCY, PERIOD, ROLLING, Tap
from policies.limits import Metric, Mode
from policies.windows import SUB_BUCKETS


@dataclass(frozen=True, slots=True)
class LocalGrant:
    """Admitted: positions tap by tap (-1 where not charged)."""

    output: int
    positions: list[int]
    remaining: list[int]
    resets: list[int]


@dataclass(frozen=True, slots=True)
class LocalRefusal:
    """Refused by this tap; `away` where its mode refuses everything while Redis is away."""

    tap: Tap
    left: int
    reset_ms: int
    needed: int
    away: bool = False


@dataclass(slots=True)
class _Counter:
    kind: int
    window_ms: int
    raw: dict[int, int]
    """What was charged, position by position: to be reported."""
    view: dict[int, int]
    """The same after corrections: what the next decision sees."""


class LocalCounters:
    """This worker's counts since Redis went away."""

    def __init__(self) -> None:
        self._counters: dict[str, _Counter] = {}
        self._left: dict[str, int] = {}

    def remember_left(self, key: str, left: int) -> None:
        """What a budget had left when Redis last told; a share is taken of that."""
        if len(self._left) >= 50_000 and key not in self._left:
            self._left.clear()
        self._left[key] = left

    def decide(
        self,
        plan: Plan,
        *,
        now_ms: int,
        prompt_tokens: int,
        money: int,
        output: int,
        least: int,
        workers: int,
        topping_up: bool = False,
    ) -> LocalGrant | LocalRefusal:
        """Decide as the script would, with shares for capacities; charges what it admits."""
        base = (0, 0, 0, 0) if topping_up else (0, 1, prompt_tokens, money)
        taps = plan.taps
        granted, charged = output, [False] * len(taps)
        refused: LocalRefusal | None = None
        index = 0
        while index < len(taps):
            last = _end_of_set(taps, index)
            alternatives = _alternatives(taps, index, last)
            nearest: LocalRefusal | None = None
            for members in alternatives:
                most, late = output, None
                for member in members:
                    found = self._most(taps[member], now_ms, base, output, least, workers)
                    if isinstance(found, LocalRefusal):
                        late = found if late is None or _later(found, late) else late
                    else:
                        most = min(most, found)
                if late is None:
                    granted = min(granted, most)
                    for member in members:
                        charged[member] = True
                    nearest = None
                    break
                nearest = late if nearest is None or _later(nearest, late) else nearest
            if nearest is not None and (refused is None or _later(nearest, refused)):
                refused = nearest
            index = last
        if refused is not None:
            return refused
        return self._charge(taps, charged, now_ms, base, granted, workers)

    def correct(self, charges: Iterable[tuple[str, int, int]]) -> None:
        """Corrections (key, position, delta) of what was charged here; those of others are passed over."""
        for key, position, delta in charges:
            counter = self._counters.get(key)
            if counter is not None and position in counter.view:
                counter.view[position] = max(0, counter.view[position] + delta)

    def set_aside(self) -> dict[str, dict[int, int]]:
        """Leave what was charged to periods and concurrency out of the next report: it is counted in another way."""
        aside: dict[str, dict[int, int]] = {}
        for key, counter in self._counters.items():
            if counter.kind != ROLLING and counter.raw:
                aside[key], counter.raw = counter.raw, {}
        return aside

    def put_back(self, aside: dict[str, dict[int, int]]) -> None:
        """It was not counted."""
        for key, amounts in aside.items():
            raw = self._counters[key].raw
            for position, amount in amounts.items():
                raw[position] = raw.get(position, 0) + amount

    def report(self, now_ms: int) -> tuple[list[str], list[tuple[int, int, int, int]]]:
        """Keys and entries for the settlement script that bring to Redis what still counts; forgets all here."""
        keys: list[str] = []
        entries: list[tuple[int, int, int, int]] = []
        for key, counter in self._counters.items():
            for position, amount in counter.raw.items():
                gone = (
                    counter.kind == ROLLING
                    and position < now_ms * SUB_BUCKETS // counter.window_ms - SUB_BUCKETS
                )
                if amount and not gone:
                    keys.append(key)
                    entries.append((counter.kind, position, counter.window_ms, amount))
        self._counters.clear()
        return keys, entries

    # private

    def _most(
        self, tap: Tap, now_ms: int, base: tuple[int, ...], output: int, least: int, workers: int
    ) -> int | LocalRefusal:
        if tap.observe or tap.draw.mode is Mode.OPEN:
            return output
        needed = base[tap.amount_class] + tap.per_token * least
        if tap.draw.mode is Mode.STRICT:
            return LocalRefusal(tap, 0, 2000, needed, away=True)
        capacity = self._share(tap, now_ms, workers)
        used = self._used(tap, now_ms)
        room = capacity - used - base[tap.amount_class]
        if room >= 0:
            if not tap.per_token:
                return output
            most = room // tap.per_token
            if most >= least:
                return min(most, output)
        return LocalRefusal(
            tap, max(0, capacity - used), self._reset(tap, now_ms, needed, capacity, used), needed
        )

    def _share(self, tap: Tap, now_ms: int, workers: int) -> int:
        capacity = tap.draw.capacity
        if tap.draw.metric is Metric.MONEY:
            capacity = min(capacity, self._left.get(_key_at(tap, now_ms)[0], capacity))
        return max(0, capacity) // max(1, workers)

    def _used(self, tap: Tap, now_ms: int) -> int:
        key, position = _key_at(tap, now_ms)
        counter = self._counters.get(key)
        if counter is None:
            return 0
        if tap.kind != ROLLING:
            return counter.view.get(position, 0)
        for old in [each for each in counter.view if each < position - SUB_BUCKETS]:
            del counter.view[old]
            counter.raw.pop(old, None)
        return sum(counter.view.values())

    def _reset(self, tap: Tap, now_ms: int, needed: int, capacity: int, used: int) -> int:
        if needed > capacity:
            # Its share may never hold it, but Redis will: a moment later is right.
            return 2000
        if tap.kind == CONCURRENCY:
            return 1000
        if tap.kind == PERIOD:
            return (tap.end_ms if now_ms < tap.end_ms else tap.next_end_ms) - now_ms
        key, _ = _key_at(tap, now_ms)
        counter, freed = self._counters[key], 0
        for position in sorted(counter.view):
            freed += counter.view[position]
            if freed >= used + needed - capacity:
                return -(-(position + SUB_BUCKETS + 1) * tap.window_ms // SUB_BUCKETS) - now_ms
        return tap.window_ms

    def _charge(
        self,
        taps: Sequence[Tap],
        charged: list[bool],
        now_ms: int,
        base: tuple[int, ...],
        output: int,
        workers: int,
    ) -> LocalGrant:
        positions, remaining, resets = [-1] * len(charged), [0] * len(charged), [0] * len(charged)
        for index, tap in enumerate(taps):
            if not charged[index]:
                continue
            key, position = _key_at(tap, now_ms)
            counter = self._counters.setdefault(key, _Counter(tap.kind, tap.window_ms, {}, {}))
            amount = base[tap.amount_class] + tap.per_token * output
            counter.raw[position] = counter.raw.get(position, 0) + amount
            counter.view[position] = counter.view.get(position, 0) + amount
            positions[index] = position
            remaining[index] = self._share(tap, now_ms, workers) - self._used(tap, now_ms)
            if tap.kind == ROLLING:
                resets[index] = -(-(position + SUB_BUCKETS + 1) * tap.window_ms // SUB_BUCKETS) - now_ms
            elif tap.kind == PERIOD:
                resets[index] = tap.end_ms - now_ms
        return LocalGrant(output, positions, remaining, resets)


def _key_at(tap: Tap, now_ms: int) -> tuple[str, int]:
    if tap.kind == ROLLING:
        return tap.key, now_ms * SUB_BUCKETS // tap.window_ms
    if tap.kind == PERIOD:
        return (tap.key, tap.start_ms) if now_ms < tap.end_ms else (tap.next_key, tap.end_ms)
    return tap.key, 0


def _end_of_set(taps: Sequence[Tap], index: int) -> int:
    number = taps[index].draw.alternatives
    end = index + 1
    while number and end < len(taps) and taps[end].draw.alternatives == number:
        end += 1
    return end


def _alternatives(taps: Sequence[Tap], start: int, end: int) -> list[list[int]]:
    found: dict[str | None, list[int]] = {}
    for index in range(start, end):
        found.setdefault(taps[index].draw.group_id, []).append(index)
    return list(found.values())


def _later(one: LocalRefusal, other: LocalRefusal) -> bool:
    return (one.away, one.reset_ms) > (other.away, other.reset_ms)
