"""The door of one worker: lets calls begin a few at a time where many come at once, and turns away what is more than it can do.

Nothing is read, looked up or reserved for who is turned away: the answer is 503 `overloaded` with retry-after. What runs
already goes on, and health, metrics and administration are always answered.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any

from engines.beats import until_beat
from gateway.errors import GatewayError, Unavailable
from gateway.http.credentials import read_credential
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.ports import Keys
from policies.overload import (
    CALM_SECONDS,
    EACH_TURN,
    FEW,
    TOLD_EACH_TURN,
    Lateness,
    Level,
    begun,
    heavy,
    overloaded,
    seen,
    stalled,
    without_line,
)

Headers = list[tuple[bytes, bytes]]
Line = deque[asyncio.Future[None]]
TICK_SECONDS = 0.02
REST_SECONDS = 0.25
"""Between looks at the event loop while few calls run."""
WEIGHED_SECONDS = 0.1
"""For how long it is remembered who has how much under way."""
LONGEST_RETRY_SECONDS = 3


class Overloaded(Unavailable):
    """The worker has more to do than it can; nothing was read or reserved."""

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__(
            "The gateway has more calls than it can carry; this one was not begun. Try again in a moment.",
            retry_after_seconds=retry_after_seconds,
            code="overloaded",
        )


class Gate:
    """Decides of each call whether it is begun, and when; `watch` runs beside and sees how late the event loop is."""

    def __init__(
        self,
        keys: Keys,
        *,
        late_ms: int,
        most_calls: int,
        refused: Callable[[str], None],
        came_late: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._keys = keys
        self._late_ms = late_ms
        self._most = most_calls
        self._refused = refused
        self._came_late = came_late
        self._lateness = Lateness()
        self._heavy: frozenset[str] = frozenset()
        self._weighed_at = 0.0
        self._turned = 0
        self._light: Line = deque()
        self._others: Line = deque()
        self._coming = 0
        """Let in at their connection in this turn, and not in line yet."""
        self._turning = False
        """A line stands, or stood a turn ago."""
        self._turn_at = 0.0
        self._left = 0
        """How many more calls may begin in this turn."""
        self._told = 0
        self._debts: deque[Callable[[], None]] = deque()
        """Refusals that wait for a later turn."""
        self._looked_at = time.monotonic()
        self._stood_at = 0.0
        self._stalled_ms = 0
        """How long the loop stood still lately without a line."""
        self.calmed: Callable[[], None] = lambda: None
        """Called when nobody is looked at closely any more."""
        self.crowd = min(most_calls * 3 // 4, without_line(0))
        """From here on the number of running calls is looked at more closely."""
        self.guarded = False
        """A line stands, or somebody may be turned away: each call is looked at more closely."""

    async def watch(self, running: Sized) -> None:
        """Follow the event loop, for ever; `running` are the calls under way."""
        while True:
            # Few calls make no loop late: then it is looked at when others wake the process as well.
            often = self.guarded or self._stalled_ms or len(running) >= FEW
            pause = TICK_SECONDS if often else until_beat(REST_SECONDS)
            due = time.monotonic() + pause
            self._looked_at = due - TICK_SECONDS
            await asyncio.sleep(pause)
            now = time.monotonic()
            self._came_late(max(0.0, now - due))
            self.note(now, now - due, len(running))

    def note(self, now: float, late: float, running: int) -> None:
        """The loop came round so many seconds late."""
        late_ms = max(0, int(late * 1000))
        self._lateness = seen(self._lateness, int(now * 1000), late_ms, self._late_ms)
        self._looked_at, self._coming = now, 0
        if self._turning:
            self._stood_at = now
        self._stalled_ms = stalled(self._stalled_ms, late_ms, now - self._stood_at < CALM_SECONDS)
        before, self.guarded = self.guarded, self._turning or self._lateness.level is not Level.CALM
        if before and not self.guarded:
            self.calmed()
        self.crowd = min(self._most * 3 // 4, without_line(running))

    async def enter(self, headers: Headers, running: Mapping[Any, Exchange], count: int) -> None:
        """Return when the call with this head may begin; raises Overloaded. `running` and `count` as for `turns_away`."""
        self._stand()
        if self._full(len(self._light) + len(self._others), headers, running, count):
            raise Overloaded(self.turned_away())
        if self._left > 0 and not self._light and not self._others:
            self._left -= 1
            return
        light = self._is_light(headers, running.values())
        if light and not self._light and self._left > -EACH_TURN:
            # Past all the others at once; the next turn has so many fewer.
            self._left -= 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._light if light else self._others).append(place)
        await place

    def turns_away(self, headers: Headers, running: Mapping[Any, Exchange], count: int) -> bool:
        """Whether a call with this head is not to be begun; `count` calls run, `running` those whose caller is known.

        For calls of which nothing is made yet; who is let in comes to `enter` in the next turn.
        """
        away = self.would_turn_away(headers, running, count)
        self._coming += not away
        return away

    def would_turn_away(self, headers: Headers, running: Mapping[Any, Exchange], count: int) -> bool:
        """The same for a call that, where it is not, asks again."""
        waiting = len(self._light) + len(self._others) + self._coming
        return self._full(waiting, headers, running, count)

    def waits(self, tell: Callable[[], None]) -> bool:
        """Whether somebody is told in a later turn that he is turned away; `tell` is called then."""
        self._told += 1
        if self._told <= TOLD_EACH_TURN:
            return False
        self._debts.append(tell)
        self._stand()
        return True

    def _stand(self) -> None:
        """From now on turns are counted, until nobody waits."""
        if self._turning:
            return
        now = time.monotonic()
        self.guarded = self._turning = True
        self._turn_at, self._left = now, EACH_TURN
        late_ms = int((now - self._looked_at - TICK_SECONDS) * 1000)
        self._stalled_ms = stalled(self._stalled_ms, late_ms, now - self._stood_at < CALM_SECONDS)
        self._stood_at = now
        loop = asyncio.get_running_loop()
        loop.call_soon(self._turn, loop)

    def _full(self, waiting: int, headers: Headers, running: Mapping[Any, Exchange], count: int) -> bool:
        level = overloaded(self._lateness, waiting, self._stalled_ms, count, self._most)
        return level is Level.FULL or (
            level is Level.PRESSED and not self._is_light(headers, running.values())
        )

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """A turn of the loop begins: who is first in line may go. Who was let in during the last one is in line by now."""
        now = time.monotonic()
        left = begun(int((now - self._turn_at) * 1000)) + min(0, self._left)
        self._turn_at, self._coming = now, 0
        light, others = self._light, self._others
        while left > 0 and (light or others):
            place = (light if light and (left % EACH_TURN or not others) else others).popleft()
            # Who has left meanwhile takes nobody's turn.
            if not place.done():
                place.set_result(None)
                left -= 1
        self._left = left
        self._told = min(TOLD_EACH_TURN, len(self._debts))
        for _ in range(self._told):
            self._debts.popleft()()
        self._turning = left <= 0 or bool(self._debts)
        if self._turning:
            loop.call_soon(self._turn, loop)

    def turned_away(self) -> int:
        """Count one that is, and give the seconds after which it may come back."""
        self._turned += 1
        self._refused("overloaded")
        # Spread out, so that those who were turned away together do not come back together.
        return 1 + self._turned % LONGEST_RETRY_SECONDS

    def _is_light(self, headers: Headers, running: Iterable[Exchange]) -> bool:
        """Whether the caller is known and has less than its share under way."""
        try:
            caller = self._keys.known(read_credential(headers))
        except GatewayError:
            return False
        if caller is None:
            return False
        now = time.monotonic()
        if now - self._weighed_at > WEIGHED_SECONDS:
            self._weighed_at = now
            self._heavy = heavy(Counter(each.caller.principal.id for each in running))
        return caller.principal.id not in self._heavy
