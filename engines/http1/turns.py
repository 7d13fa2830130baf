"""Large steps that many want at the same time, so many in each turn of the event loop and the rest in the next ones.

First come, first served; what is small does not stand in this line and goes between.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, Future
from collections import deque
from collections.abc import Callable


class Turns:
    """`each` steps a turn."""

    __slots__ = ("_each", "_line", "_loop")

    def __init__(self, loop: AbstractEventLoop, each: int) -> None:
        self._loop = loop
        self._each = each
        self._line: deque[Callable[[], object]] = deque()

    def next(self, step: Callable[[], object]) -> None:
        """Take the step in one of the next turns."""
        if not self._line:
            self._loop.call_soon(self._turn)
        self._line.append(step)

    async def mine(self) -> None:
        """Return in one of the next turns."""
        place: Future[None] = self._loop.create_future()
        self.next(lambda: place.done() or place.set_result(None))
        await place

    def _turn(self) -> None:
        for _ in range(min(self._each, len(self._line))):
            self._line.popleft()()
        if self._line:
            self._loop.call_soon(self._turn)
