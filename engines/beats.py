"""When what a process does again and again is due: at multiples of its period, and so in the same turns of the event loop.

Waking a process that sleeps costs more than most of what it is woken for. Each process has moments of its own, so that many of
them do not ask the same server at once.
"""

from __future__ import annotations

import asyncio
import os

_TOO_SOON = 0.25
"""Of a period: what is due sooner than that is what was just done, a little early."""
_APART = 0.0618
"""Seconds between the moments of two processes that were started one after the other."""


def until_beat(seconds: float) -> float:
    """Seconds to the next beat of that period, by the running event loop's clock."""
    left = seconds - (asyncio.get_running_loop().time() + _APART * os.getpid()) % seconds
    return left if left > _TOO_SOON * seconds else left + seconds


async def beat(seconds: float) -> None:
    """Wait for the next beat of that period."""
    await asyncio.sleep(until_beat(seconds))
