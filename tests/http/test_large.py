"""Large bodies are read in one thread, in turn, and a caller that leaves leaves nothing behind."""

from __future__ import annotations

import asyncio
import threading

import pytest

from gateway.http.large import LargeBodies


async def test_what_is_read_comes_back_or_is_raised_and_the_event_loop_goes_on_meanwhile() -> None:
    large, go = LargeBodies(), threading.Event()

    def held(given: int) -> tuple[int, str]:
        assert go.wait(30)
        return given, threading.current_thread().name

    first, second = (asyncio.create_task(large.read(held, number)) for number in (1, 2))
    await asyncio.sleep(0)
    assert not first.done()
    go.set()
    assert {await first, await second} == {(1, "large-bodies_0"), (2, "large-bodies_0")}
    with pytest.raises(ValueError, match="invalid literal"):
        await large.read(int, "x")


async def test_a_call_that_is_cancelled_while_it_waits_does_not_hold_up_the_next() -> None:
    large, go = LargeBodies(), threading.Event()
    waiting = asyncio.create_task(large.read(go.wait, 30.0))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go.set()
    assert await large.read(len, "four") == 4
