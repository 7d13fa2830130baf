"""Large bodies are read in one thread, in turn, and a caller that leaves leaves nothing behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.http.connection import BODY
from gateway.http.large import LARGE, LargeBodies
from gateway.http.openai.chat import CALLS
from gateway.http.plane import DataPlane
from tests.pipeline.fakes import World


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


@pytest.mark.parametrize(("size", "beside"), [(1_000, 0), (LARGE + 1_000, 2)])
async def test_what_is_large_is_decoded_and_read_beside_the_loop_and_nothing_else_is(
    size: int, beside: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[object] = []
    read = LargeBodies.read

    async def noted(self: LargeBodies, work: Callable[..., Any], *given: Any) -> Any:
        taken.append(work)
        return await read(self, work, *given)

    monkeypatch.setattr(LargeBodies, "read", noted)
    world, told = World(), []

    async def send(message: Any) -> None:
        told.append(message.get("status"))

    async def receive() -> Any:
        raise AssertionError("all of it is here")

    words = "x" * size
    scope: Any = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "headers": [(b"authorization", b"Bearer ann-key"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        BODY: msgspec.json.encode({"model": "chat", "messages": [{"role": "user", "content": words}]}),
    }
    await DataPlane(world.line).handle(scope, receive, send, CALLS["/v1/chat/completions"])
    assert told[0] == 200
    assert len(taken) == beside
    assert world.engines.transports["e1"].sent[0]["messages"][0]["content"] == words
