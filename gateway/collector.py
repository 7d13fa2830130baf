"""When a worker has Python look for cycles: once a second among what is young, now and then among all.

Calls that come in a burst have more objects at once than Python's own threshold, and it would look within them. What lives long (keys, callers'
parts, a new configuration) is set aside once there is much of it and has survived a look at all. It goes as ever when
nobody holds it; of cycles only those would stay that calls were in which ran at that moment, so it waits for few of them.
With many open streams a look at all takes 50 ms and more, and sets nothing aside: it waits for these to end, and for a line of calls, though not for ever.
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
_PAUSE_TIMES = 500
"""A look at all takes no more than this part of the time."""
LATEST_SECONDS = 60.0
"""For so long a look at all is put off."""
_NEVER = 1 << 30


class Collector:
    """One process's."""

    def __init__(
        self,
        running: Callable[[], int],
        pressed: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
        spent: Callable[[], float] = time.thread_time,
    ) -> None:
        """`running` tells how many calls are under way, `pressed` whether some wait. What there is now is set aside at once."""
        self._running = running
        self._pressed = pressed
        self._clock = clock
        self._spent = spent
        self._next = 0.0
        gc.collect()
        gc.freeze()
        # Python's own rule for a look at all goes by how many objects are not set aside: in a flood of new connections it is soon met.
        gc.set_threshold(YOUNG, 10, _NEVER)

    def turn(self) -> None:
        """Look: what a cycle of the last second holds may be large."""
        began = self._clock()
        inconvenient = self._running() > FEW or self._pressed()
        if began < self._next + (LATEST_SECONDS if inconvenient else 0.0):
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
