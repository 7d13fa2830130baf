"""When a worker has Python look for cycles: once a second among what is young, now and then among all.

Calls that come in a burst have more objects at once than Python's own threshold, and it would look within them. What lives long (keys, callers'
parts, a new configuration) is set aside once there is much of it and has survived a look at all. It goes as ever when
nobody holds it; of cycles only those would stay that calls were in which ran at that moment, so it waits for few of them.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

YOUNG = 5_000
"""Objects more than there were, at which Python looks at these by itself: some 5 ms."""
LONG_SECONDS = 0.01
"""Of the processor's time, for one look at all: what takes longer is set aside together. Some 10,000 to 20,000 objects."""
FEW = 100
"""Calls under way."""
_PAUSE_SECONDS = 10.0
_PAUSE_TIMES = 200
"""A look at all takes no more than this part of the time."""


class Collector:
    """One process's."""

    def __init__(
        self,
        running: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        spent: Callable[[], float] = time.thread_time,
    ) -> None:
        """`running` tells how many calls are under way. What there is now is set aside at once."""
        self._running = running
        self._clock = clock
        self._spent = spent
        self._next = 0.0
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG, 10, 10)

    def turn(self) -> None:
        """Look: what a cycle of the last second holds may be large."""
        began = self._clock()
        if began < self._next:
            gc.collect(1)
            return
        spent = self._spent()
        gc.collect()
        took = self._spent() - spent
        self._next = began + max(_PAUSE_SECONDS, _PAUSE_TIMES * (self._clock() - began))
        # Never by a list of all objects (gc.get_objects): a tuple that another thread is making must have no other holder,
        # or Python fails there with a SystemError.
        if took >= LONG_SECONDS and self._running() <= FEW:
            gc.freeze()
