"""Ends of streams give way to calls that are being admitted: their words have been passed on, and others wait for their first.

Streams that begin together end together, and their callers call again together. An end waits for milliseconds at most; the
settlement stays before what the client gets last.
"""

from __future__ import annotations

import asyncio
from collections import deque

PATIENCE_SECONDS = 0.005
"""The longest that an end waits, however many come."""


class Ends:
    """Those of one worker."""

    __slots__ = ("_going", "admitting", "waiting")

    def __init__(self) -> None:
        self.admitting = 0
        """Calls whose reservation is under way: counted by whoever admits, who calls `next` where one ends and somebody waits."""
        self.waiting: deque[asyncio.Future[None]] = deque()
        """Ends that wait for them."""
        self._going = False
        """One was let go in this turn."""

    async def turn(self) -> None:
        """Return when an end may be settled: one a turn of the loop while none is admitted."""
        if not self.admitting and not self.waiting:
            return
        loop = asyncio.get_running_loop()
        mine = loop.create_future()
        if not self.waiting:
            loop.call_later(PATIENCE_SECONDS, self._all)
        self.waiting.append(mine)
        await mine

    def next(self) -> None:
        """Let the first that waits go, while nobody is admitted, and the others in the turns that follow; see `admit`."""
        while self.waiting and not (self.admitting or self._going):
            mine = self.waiting.popleft()
            if not mine.done():
                mine.set_result(None)
                self._going = True
                asyncio.get_running_loop().call_soon(self._gone)

    def _gone(self) -> None:
        self._going = False
        self.next()

    def _all(self) -> None:
        """The first of them has waited long enough; the others not much less."""
        for mine in self.waiting:
            if not mine.done():
                mine.set_result(None)
        self.waiting.clear()
