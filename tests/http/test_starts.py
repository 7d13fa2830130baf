"""Calls that come together begin a few in a turn of the event loop, in their order, and nobody is forgotten."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from gateway.http.gate import Gate
from gateway.http.openai.chat import CHAT
from gateway.http.plane import DataPlane
from gateway.http.starts import Starts
from policies.overload import EACH_TURN


class Calls:
    """Calls that come in the same turn."""

    def __init__(self, count: int) -> None:
        self.starts = Starts()
        self.began: list[int] = []
        self.tasks = [asyncio.create_task(self._call(number)) for number in range(count)]

    def come(self, number: int) -> None:
        self.tasks.append(asyncio.create_task(self._call(number)))

    async def _call(self, number: int) -> None:
        if not self.starts.at_once():
            await self.starts.turn()
        self.began.append(number)


async def turn() -> None:
    await asyncio.sleep(0)


async def test_those_who_come_together_begin_a_few_a_turn_in_their_order() -> None:
    calls = Calls(4 * EACH_TURN)
    most = before = 0
    while len(calls.began) < 4 * EACH_TURN:
        await turn()
        most, before = max(most, len(calls.began) - before), len(calls.began)
    assert most == EACH_TURN
    assert calls.began == list(range(4 * EACH_TURN))


async def test_what_goes_on_has_its_turns_between_those_who_begin() -> None:
    calls = Calls(3 * EACH_TURN)
    seen: list[int] = []

    while len(calls.began) < 3 * EACH_TURN:
        seen.append(len(calls.began))
        await turn()
    assert set(seen) == {0, EACH_TURN, 2 * EACH_TURN}


async def test_who_comes_later_waits_behind_those_who_wait() -> None:
    calls = Calls(2 * EACH_TURN)
    await turn()
    calls.come(-1)
    async with asyncio.timeout(10):
        await asyncio.gather(*calls.tasks)
    assert calls.began == [*range(2 * EACH_TURN), -1]


async def test_who_left_while_waiting_takes_nobodys_turn() -> None:
    calls = Calls(3 * EACH_TURN)
    await turn()
    for each in calls.tasks[EACH_TURN : 2 * EACH_TURN]:
        each.cancel()
    async with asyncio.timeout(10):
        await asyncio.gather(*calls.tasks, return_exceptions=True)
    assert calls.began == [*range(EACH_TURN), *range(2 * EACH_TURN, 3 * EACH_TURN)]


async def test_who_comes_alone_begins_at_once_each_time() -> None:
    calls = Calls(1)
    for number in range(1, 2 * EACH_TURN):
        for _ in range(3):
            await turn()
        assert calls.starts.at_once()
        calls.began.append(number)
    assert calls.began == list(range(2 * EACH_TURN))


async def test_the_data_planes_calls_begin_so() -> None:
    def refused(*_: object, **__: object) -> None:
        """Nobody reads it here."""

    keys: Any = None
    line: Any = SimpleNamespace(monotonic_ns=lambda: 1, trail=SimpleNamespace(refused=refused))
    gate = Gate(keys, late_ms=100, most_calls=4096, refused=refused)
    plane = DataPlane(line, gate=gate)
    told: list[int] = []

    async def receive() -> Any:
        raise AssertionError("there is no body to read")

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            told.append(message["status"])

    scope: Any = {"method": "GET", "headers": [], "client": ("127.0.0.1", 1)}
    calls = [
        asyncio.create_task(plane.handle(scope.copy(), receive, send, CHAT)) for _ in range(2 * EACH_TURN)
    ]
    await turn()
    assert told == [405] * EACH_TURN
    async with asyncio.timeout(10):
        await asyncio.gather(*calls)
    assert told == [405] * 2 * EACH_TURN
