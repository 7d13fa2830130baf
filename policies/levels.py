"""What counts against limits at a moment: sliding windows, calendar periods, and requests that run. Plain values, no clock.

The same rules as the counters' own: what was charged counts in the sub-bucket in which it was charged, a correction
goes there too while it is inside, and nothing goes below zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from policies.limits import Draw
from policies.windows import SUB_BUCKETS, Calendar, Rolling, edges

Place = tuple[str, str, str]
"""Of a counter: limit, subject, and in calendar periods the period's start."""
_CONCURRENCY_WAIT_MS = 1000


@dataclass(slots=True)
class Sliding:
    """A window: amounts by sub-bucket; the present one and those before it that still count."""

    width_ms: int
    head: int = 0
    total: int = 0
    buckets: dict[int, int] = field(default_factory=dict[int, int])

    def advance(self, now_ms: int) -> None:
        """Let go of what has left the window."""
        head = now_ms * SUB_BUCKETS // self.width_ms
        if head <= self.head:
            return
        if head - self.head > SUB_BUCKETS:
            self.buckets.clear()
            self.total = 0
        else:
            for gone in range(self.head - SUB_BUCKETS, head - SUB_BUCKETS):
                self.total -= self.buckets.pop(gone, 0)
        self.head = head

    def add(self, position: int, amount: int) -> None:
        """Charge a sub-bucket."""
        self.buckets[position] = self.buckets.get(position, 0) + amount
        self.total += amount

    def correct(self, position: int, delta: int) -> None:
        """Correct what was charged there: an excess that comes too late counts now, a refund is dropped then."""
        inside = self.head - SUB_BUCKETS <= position <= self.head
        if delta > 0:
            self.add(position if inside else self.head, delta)
        elif inside:
            self.add(position, -min(self.buckets.get(position, 0), -delta))

    def wait(self, now_ms: int, wanted: int) -> int:
        """Milliseconds until so much has left."""
        freed = 0
        for number in range(SUB_BUCKETS + 1):
            freed += self.buckets.get(self.head - SUB_BUCKETS + number, 0)
            if freed >= wanted:
                return -(-(self.head + number + 1) * self.width_ms // SUB_BUCKETS) - now_ms
        return -(-(self.head + SUB_BUCKETS + 1) * self.width_ms // SUB_BUCKETS) - now_ms


class Levels:
    """The counters of one course of events."""

    def __init__(self) -> None:
        self._sliding: dict[tuple[str, str, int], Sliding] = {}
        self._counts: dict[Place, int] = {}

    def used(self, draw: Draw, now_ms: int) -> int:
        """What counts against a draw."""
        if isinstance(draw.window, Rolling):
            return self._window(draw, now_ms).total
        return self._counts.get(_place(draw, now_ms), 0)

    def wait(self, draw: Draw, now_ms: int, wanted: int) -> int:
        """Milliseconds until so much of it is free again."""
        match draw.window:
            case None:
                return _CONCURRENCY_WAIT_MS
            case Rolling():
                return self._window(draw, now_ms).wait(now_ms, wanted)
            case Calendar() as calendar:
                return edges(calendar, now_ms)[1] - now_ms

    def charge(self, draw: Draw, now_ms: int, amount: int) -> int:
        """Charge a draw; the position to correct it at."""
        if isinstance(draw.window, Rolling):
            window = self._window(draw, now_ms)
            window.add(window.head, amount)
            return window.head
        place = _place(draw, now_ms)
        self._counts[place] = self._counts.get(place, 0) + amount
        return 0 if draw.window is None else int(place[2])

    def correct(self, draw: Draw, now_ms: int, position: int, delta: int) -> None:
        """Bring a charge to what was used; a period is the one of the charge."""
        if isinstance(draw.window, Rolling):
            self._window(draw, now_ms).correct(position, delta)
            return
        place = (draw.limit_id, draw.subject, "" if draw.window is None else str(position))
        self._counts[place] = max(0, self._counts.get(place, 0) + delta)

    def set(self, draw: Draw, now_ms: int, used: int) -> None:
        """Make it what it is known to have been."""
        if isinstance(draw.window, Rolling):
            window = self._window(draw, now_ms)
            window.add(window.head, used - window.total)
        else:
            self._counts[_place(draw, now_ms)] = used

    def _window(self, draw: Draw, now_ms: int) -> Sliding:
        assert isinstance(draw.window, Rolling)
        key = (draw.limit_id, draw.subject, draw.window.milliseconds)
        window = self._sliding.get(key)
        if window is None:
            window = self._sliding[key] = Sliding(draw.window.milliseconds)
        window.advance(now_ms)
        return window


def _place(draw: Draw, now_ms: int) -> Place:
    if isinstance(draw.window, Calendar):
        return draw.limit_id, draw.subject, str(edges(draw.window, now_ms)[0])
    return draw.limit_id, draw.subject, ""
