"""The door of one worker: turns calls away early while the worker has more to do than it can.

Nothing is read, looked up or reserved for who is turned away: the answer is 503 `overloaded` with retry-after. What runs
already goes on, and health, metrics and administration are always answered.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any

from gateway.beats import until_beat
from gateway.errors import GatewayError, Unavailable
from gateway.http.credentials import read_credential
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.ports import Keys
from policies.overload import FEW, Lateness, Level, heavy, overloaded, seen

Headers = list[tuple[bytes, bytes]]
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
    """Decides at each call whether it is begun; `watch` runs beside and sees how late the event loop is."""

    def __init__(self, keys: Keys, *, late_ms: int, most_calls: int, refused: Callable[[str], None]) -> None:
        self._keys = keys
        self._late_ms = late_ms
        self._most = most_calls
        self._refused = refused
        self._lateness = Lateness()
        self._heavy: frozenset[str] = frozenset()
        self._weighed_at = 0.0
        self._turned = 0
        self.crowd = most_calls * 3 // 4
        """From here on the number of running calls is looked at more closely."""
        self.guarded = False
        """Somebody may be turned away: each call is looked at more closely."""

    async def watch(self, running: Sized) -> None:
        """Follow the event loop, for ever; `running` are the calls under way."""
        while True:
            # Few calls make no loop late: then it is looked at when others wake the process as well.
            pause = TICK_SECONDS if self.guarded or len(running) >= FEW else until_beat(REST_SECONDS)
            due = time.monotonic() + pause
            await asyncio.sleep(pause)
            now = time.monotonic()
            self.note(now, now - due, len(running))

    def note(self, now: float, late: float, running: int) -> None:
        """The loop came round so many seconds late."""
        found = seen(self._lateness, int(now * 1000), int(late * 1000), self._late_ms, running)
        self._lateness, self.guarded = found, found.level is not Level.CALM or found.bound is not None

    def check(self, headers: Headers, running: Mapping[Any, Exchange], count: int) -> None:
        """Raises Overloaded for a call that is not to be begun; see `turns_away`."""
        if self.turns_away(headers, running, count):
            raise Overloaded(self.turned_away())

    def turns_away(self, headers: Headers, running: Mapping[Any, Exchange], count: int) -> bool:
        """Whether a call with this head is not to be begun; `count` calls run, `running` those whose caller is known."""
        level = overloaded(self._lateness, count, self._most)
        return level is Level.FULL or (
            level is Level.PRESSED and not self._is_light(headers, running.values())
        )

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
