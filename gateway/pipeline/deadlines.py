"""How much of the caller's time is left, and ending with it what takes longer.

A deadline is the caller's or the endpoint's; where there is none nothing is measured and no timer is set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from engines.errors import TimedOut
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.line import Line

T = TypeVar("T")


class PastDeadline(TimedOut):
    """The time that the caller or the endpoint gave has passed; nothing that is called is to blame."""

    retryable = False
    code = "deadline_exceeded"


def left_ms(line: Line, exchange: Exchange) -> int | None:
    """What is left of the caller's time, None where it set no limit."""
    if not exchange.deadline_ns:
        return None
    return max(0, (exchange.deadline_ns - line.monotonic_ns()) // 1_000_000)


async def within(line: Line, exchange: Exchange, work: Awaitable[T]) -> T:
    """The work's result; raises PastDeadline once the caller's time is over."""
    left = left_ms(line, exchange)
    if left is None:
        return await work
    try:
        async with asyncio.timeout(left / 1000):
            return await work
    except TimeoutError:
        raise PastDeadline("the call's deadline passed") from None
