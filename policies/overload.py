"""Whether a worker has more to do than it can, who waits then, and whom it turns away.

Calls that come faster than they are begun wait in a short line. A few of it are begun in each turn of the event loop, so that turns stay
short for everybody, and what does not fit into it is turned away. Who has less under way than others goes first and is turned away
last: a flood meets its own sender. Calls that wait for an upstream are not in line, however many they are. What else makes the loop
late counts when it lasts; a stall that ends by itself turns nobody away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

PATIENCE_MS = 200
"""How long an event loop may be late before anybody is turned away for that."""
MEMORY_MS = 2_000
"""Whoever was overloaded so short a time ago is so again at the first late turn."""
FEW = 32
"""So few calls do not make an event loop late: other work on the machine does, and turning them away would not help."""
AT_ONCE = 64
"""So many calls are carried without a line."""
MORE = 32
"""Of more than that, so many are begun from one look at the loop to the next before any waits in line."""
EACH_TURN = 4
"""So many calls of the line are begun in a turn of the loop, and one of them is of those that would go last."""
LINE = 64
"""So many calls may wait in line."""
TOLD_EACH_TURN = 64
"""So many are told in a turn that they are turned away. Each calls again as soon as it knows, and more than a thousand who do keep
the loop reading, turn after turn in one."""
CALM_SECONDS = 1.0
"""For so long after a line nothing is taken for a stall: it is the line's own doing."""
LONGEST_STALL_MS = 500
FORGOTTEN_MS = 10
"""What each look at the loop, fifty a second, takes of the stall that is taken into account."""


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


def seen(before: Lateness, now_ms: int, late_ms: int, most_ms: int) -> Lateness:
    """The loop came round `late_ms` late; at most `most_ms` is well."""
    if late_ms <= most_ms:
        return Lateness(None, before.pressed_ms, Level.CALM)
    since = now_ms if before.since_ms is None else before.since_ms
    recent = before.pressed_ms is not None and now_ms - before.pressed_ms <= MEMORY_MS
    if not recent and now_ms - since < PATIENCE_MS:
        return Lateness(since, before.pressed_ms, Level.CALM)
    return Lateness(since, now_ms, Level.FULL if late_ms > 2 * most_ms else Level.PRESSED)


def without_line(running: int) -> int:
    """Up to how many running calls one is begun at once; holds until the loop is looked at again, and `running` run now."""
    return max(AT_ONCE, running + MORE)


def begun(turn_ms: int) -> int:
    """How many calls of the line are begun in this turn of the loop, when the last one took so long.

    A long turn is filled with something else, or the machine is: a line would never end at four calls in each of them.
    """
    return max(EACH_TURN, turn_ms // EACH_TURN)


def stalled(before_ms: int, late_ms: int, standing: bool) -> int:
    """How long the loop stood still lately, as it came round `late_ms` late; what a line makes of it is no stall."""
    late_ms = 0 if standing else late_ms
    return min(LONGEST_STALL_MS, max(0, late_ms, before_ms - FORGOTTEN_MS))


def lined_up(waiting: int, stalled_ms: int) -> Level:
    """So many calls wait in line after a stall of so long, in which as many had come as it lasted milliseconds, or fewer."""
    most = LINE + stalled_ms
    if waiting < most:
        return Level.CALM
    return Level.PRESSED if 4 * waiting < 5 * most else Level.FULL


def crowded(running: int, most: int) -> Level:
    """Of `most` calls that may run at once `running` do."""
    if running >= most:
        return Level.FULL
    return Level.PRESSED if 4 * running >= 3 * most else Level.CALM


def overloaded(seen: Lateness, waiting: int, stalled_ms: int, running: int, most: int) -> Level:
    """What a worker's lateness, its line and the calls that run come to; those in line run too."""
    level = max(crowded(running, most), lined_up(waiting, stalled_ms))
    return level if running < FEW else max(level, seen.level)


def heavy(running: Mapping[str, int]) -> frozenset[str]:
    """Who has its share of the running calls or more: at least as many as the mean of those that have any."""
    total = sum(running.values())
    return frozenset(who for who, count in running.items() if count * len(running) >= total)
