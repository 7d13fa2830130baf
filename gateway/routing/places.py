"""The places of one entity: calls that may run at once, a bounded queue before them, and who is next.

Interactive calls come before batch ones, principals take turns, and none of them may have all places or all of the
queue. Nobody who could run waits: whatever frees a place gives it away in the same turn.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from policies.calling import EntityRules

_LONGEST_RETRY = 10


@dataclass(frozen=True, slots=True)
class Share:
    """One worker's part of an entity's places and queue."""

    places: int
    queue: int
    percent: int

    @classmethod
    def of(cls, rules: EntityRules, workers: int, rank: int = 0) -> Share:
        """An even part, what is over going to the first of them; one place at least, since every worker may be called."""
        even, over = divmod(rules.concurrency, max(1, workers))
        return cls(
            max(1, even + (rank < over)),
            -(-rules.queue // max(1, workers)),
            rules.principal_percent,
        )

    @property
    def principal_places(self) -> int:
        """How many places one principal may have."""
        return max(1, self.places * self.percent // 100)

    @property
    def principal_queue(self) -> int:
        """How many of its calls may wait."""
        return max(1, self.queue * self.percent // 100)


class Full(Exception):
    """There is no place and none to wait in; `retry_after_seconds` is when one is likely."""

    def __init__(self, reason: str, retry_after_seconds: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


@dataclass(slots=True, eq=False)
class Waiting:
    """One call that waits."""

    who: str
    batch: bool
    turn: asyncio.Future[None]


class Places:
    """Counts who runs and lines up who waits."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.running = 0
        self.waiting = 0
        self._clock = clock
        self._held: dict[str, int] = {}
        self._lines: tuple[dict[str, deque[Waiting]], dict[str, deque[Waiting]]] = ({}, {})
        self._share = Share(1, 0, 100)
        self._seconds = 0.0
        """Faded time that a place is held for."""

    def enter(self, who: str, share: Share, *, batch: bool) -> Waiting | None:
        """Take a place (None), or a place in the queue; raises Full."""
        self._share = share
        if self.waiting:
            self._give()
        if self._fits(who):
            self._take(who)
            return None
        if self.waiting >= share.queue and not (not batch and self._turn_away()):
            raise Full("its queue is full", self._likely())
        own = sum(len(line[who]) for line in self._lines if who in line)
        if own >= share.principal_queue:
            raise Full("this principal has as many calls waiting as it may", self._likely())
        waiting = Waiting(who, batch, asyncio.get_running_loop().create_future())
        self._lines[batch].setdefault(who, deque()).append(waiting)
        self.waiting += 1
        return waiting

    def resize(self, share: Share) -> None:
        """There are more places from now on, or fewer: who runs goes on, and who may run then is let in."""
        self._share = share
        self._give()

    def withdraw(self, waiting: Waiting) -> bool:
        """Take a call out of the queue that found a place elsewhere; False where its turn has come here."""
        if waiting.turn.done():
            return False
        self._drop(waiting)
        return True

    def give_up(self, waiting: Waiting) -> None:
        """It waits no more: its turn, should it have come, is another's."""
        if waiting.turn.done() and not waiting.turn.cancelled() and waiting.turn.exception() is None:
            self._free(waiting.who)
        else:
            self._drop(waiting)

    def leave(self, who: str, seconds: float) -> None:
        """Give the place back after that long."""
        self._seconds = seconds if not self._seconds else self._seconds * 0.9 + seconds * 0.1
        self._free(who)

    def unused(self, who: str) -> None:
        """Give the place back, of which nothing was made."""
        self._free(who)

    def taken(self) -> Full:
        """What a call is told that may not wait for a place which another worker has."""
        return Full("its places are taken", self._likely())

    def too_slow(self) -> Full:
        """What a call is told whose turn did not come in time."""
        return Full("no place became free in time", self._likely())

    def _fits(self, who: str) -> bool:
        share = self._share
        return self.running < share.places and self._held.get(who, 0) < share.principal_places

    def _take(self, who: str) -> None:
        self.running += 1
        self._held[who] = self._held.get(who, 0) + 1

    def _free(self, who: str) -> None:
        self.running -= 1
        left = self._held[who] - 1
        if left:
            self._held[who] = left
        else:
            del self._held[who]
        self._give()

    def _give(self) -> None:
        """Let those run whose turn it is."""
        while self.waiting and self.running < self._share.places:
            found = self._next(self._lines[False]) or self._next(self._lines[True])
            if found is None:
                return
            self.waiting -= 1
            if not found.turn.done():
                self._take(found.who)
                found.turn.set_result(None)

    def _next(self, line: dict[str, deque[Waiting]]) -> Waiting | None:
        """The first call of the first principal that may have another place; the principal goes to the end."""
        for who in line:
            if self._held.get(who, 0) < self._share.principal_places:
                calls = line.pop(who)
                found = calls.popleft()
                if calls:
                    line[who] = calls
                return found
        return None

    def _turn_away(self) -> bool:
        """Make the youngest batch call give its place in the queue to an interactive one."""
        line = self._lines[True]
        if not line:
            return False
        calls = line[next(reversed(line))]
        youngest = calls[-1]
        self._drop(youngest)
        if not youngest.turn.done():
            youngest.turn.set_exception(
                Full("an interactive call took its place in the queue", self._likely())
            )
        return True

    def _drop(self, waiting: Waiting) -> None:
        line = self._lines[waiting.batch]
        calls = line.get(waiting.who)
        if calls is None or waiting not in calls:
            return
        calls.remove(waiting)
        self.waiting -= 1
        if not calls:
            del line[waiting.who]

    def _likely(self) -> int:
        ahead = (self.waiting + 1) * (self._seconds or 1.0) / max(1, self._share.places)
        return max(1, min(_LONGEST_RETRY, round(ahead)))
