"""Whether a worker has more to do than it can, and whom it turns away then.

A stall that ends by itself turns nobody away: only lateness that lasts does, and for a while after it any. From then on a bound
on the calls under way falls with each late turn and rises slowly with each timely one, as TCP's window does (RFC 5681): a loop that is on time
again has let in whom it will be late for. Who has less under way than others is turned away last, so that a flood meets its own sender first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

PATIENCE_MS = 200
"""How long an event loop may be late before anybody is turned away."""
MEMORY_MS = 2_000
"""Whoever was overloaded so short a time ago is so again at the first late turn."""
FALL_PERCENT = 10
"""What each late turn takes of the bound on calls under way."""
RISE_PERCENT = 1
"""What each timely turn adds to it."""
FEW = 32
"""So few calls do not make an event loop late: other work on the machine does, and turning them away would not help."""


class Level(IntEnum):
    """Who is turned away."""

    CALM = 0
    PRESSED = 1
    """Callers that have their share or more under way."""
    FULL = 2
    """Everybody."""


@dataclass(frozen=True, slots=True)
class Lateness:
    """What has been seen of a worker's event loop."""

    since_ms: int | None = None
    """When it was first late, of all the times it was late in a row."""
    pressed_ms: int | None = None
    """When it was last late for too long."""
    level: Level = Level.CALM
    bound: int | None = None
    """How many calls may be under way; None while that is not the worker's trouble."""


def seen(before: Lateness, now_ms: int, late_ms: int, most_ms: int, running: int) -> Lateness:
    """The loop came round `late_ms` late while `running` calls were under way; at most `most_ms` is well."""
    recent = before.pressed_ms is not None and now_ms - before.pressed_ms <= MEMORY_MS
    if late_ms <= most_ms:
        bound = before.bound
        if bound is not None:
            bound = bound + max(1, bound * RISE_PERCENT // 100) if recent or 2 * running > bound else None
        return Lateness(None, before.pressed_ms, Level.CALM, bound)
    since = now_ms if before.since_ms is None else before.since_ms
    if not recent and now_ms - since < PATIENCE_MS:
        return Lateness(since, before.pressed_ms, Level.CALM, before.bound)
    at_most = running if before.bound is None else min(before.bound, running)
    bound = max(FEW, at_most * (100 - FALL_PERCENT) // 100)
    return Lateness(since, now_ms, Level.FULL if late_ms > 2 * most_ms else Level.PRESSED, bound)


def crowded(running: int, most: int) -> Level:
    """Of `most` calls that may run at once `running` do."""
    if running >= most:
        return Level.FULL
    return Level.PRESSED if 4 * running >= 3 * most else Level.CALM


def overloaded(seen: Lateness, running: int, most: int) -> Level:
    """What a worker's lateness and the calls that run in it come to."""
    level = crowded(running, most)
    if running < FEW:
        return level
    if seen.bound is not None and running >= seen.bound:
        level = max(level, Level.PRESSED if 4 * running < 5 * seen.bound else Level.FULL)
    return max(level, seen.level)


def heavy(running: Mapping[str, int]) -> frozenset[str]:
    """Who has its share of the running calls or more: at least as many as the mean of those that have any."""
    total = sum(running.values())
    return frozenset(who for who, count in running.items() if count * len(running) >= total)
