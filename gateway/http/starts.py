"""Lets calls begin a few in a turn of the event loop, so that the first ones are on their way while others still begin.

Calls that come together would else walk together, and each wait at every step for all of them. Order is that of arrival, nobody
is turned away here, and who comes alone waits for nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from policies.overload import EACH_TURN, begun


class Starts:
    """Asked by each call, once, before anything is done for it."""

    __slots__ = ("_counting", "_left", "_line", "_turn_at")

    def __init__(self) -> None:
        self._line: deque[asyncio.Future[None]] = deque()
        self._counting = False
        """Somebody began in this turn, or waits."""
        self._left = 0
        """How many more may begin in it."""
        self._turn_at = 0.0

    def at_once(self) -> bool:
        """Whether a call may begin in this turn; it has begun then. Who may not waits for its `turn`."""
        if not self._counting:
            self._counting = True
            self._left = EACH_TURN
            self._turn_at = time.monotonic()
            asyncio.get_running_loop().call_soon(self._next)
        if self._left <= 0:
            return False
        self._left -= 1
        return True

    def turn(self) -> asyncio.Future[None]:
        """Done when a call may begin that may not at once."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(place)
        return place

    def _next(self) -> None:
        line = self._line
        if not line:
            self._counting = False
            return
        now = time.monotonic()
        left = begun(int((now - self._turn_at) * 1000))
        self._turn_at = now
        while left > 0 and line:
            place = line.popleft()
            # Who has left meanwhile takes nobody's turn.
            if not place.done():
                place.set_result(None)
                left -= 1
        self._left = left
        asyncio.get_running_loop().call_soon(self._next)
