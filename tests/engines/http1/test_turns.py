"""Large steps take turns: so many in each of the loop's, first come first served, and many large answers make no turn long."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from engines.http1.connection import LARGE_READ, Connection
from engines.http1.pool import ANSWERS_A_TURN, READ_BYTES
from engines.http1.transport import Http1Transport
from engines.http1.turns import Turns
from tests.engines.http1.byte_server import ByteServer, chunked


class Clock:
    """Counts the loop's turns."""

    def __init__(self) -> None:
        self.now = 0
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_soon(self._turn)

    def stop(self) -> None:
        self._handle.cancel()

    def _turn(self) -> None:
        self.now += 1
        self._handle = self._loop.call_soon(self._turn)


async def test_so_many_go_in_a_turn_in_the_order_in_which_they_came() -> None:
    clock, turns = Clock(), Turns(asyncio.get_running_loop(), 3)
    went: list[tuple[int, int]] = []
    for number in range(8):
        turns.next(lambda number=number: went.append((number, clock.now)))  # type: ignore[misc]
    while len(went) < 8:
        await asyncio.sleep(0)
    clock.stop()
    assert [number for number, _ in went] == list(range(8))
    assert list(Counter(turn for _, turn in went).values()) == [3, 3, 2]


async def test_whoever_stops_waiting_keeps_nobody_waiting() -> None:
    turns = Turns(asyncio.get_running_loop(), 1)
    tasks = [asyncio.create_task(turns.mine()) for _ in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    done = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert [type(each) for each in done] == [type(None), asyncio.CancelledError, type(None), type(None)]


async def test_many_answers_that_have_much_to_give_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    many, size = 12, 2_000_000
    clock = Clock()
    read: Counter[int] = Counter()
    buffer_updated = Connection.buffer_updated

    def counted(self: Connection, nbytes: int) -> None:
        read[clock.now] += nbytes
        buffer_updated(self, nbytes)

    monkeypatch.setattr(Connection, "buffer_updated", counted)
    async with ByteServer([chunked(*[b"x" * 250] * (size // 250))]) as server:
        transport = Http1Transport(server.url)
        every = [await transport.open("/v1", b"{}", {}) for _ in range(many)]
        taken: list[int] = []
        assert all(
            await asyncio.gather(*(each.pump(lambda data: not taken.append(len(data))) for each in every))
        )
        whole = await asyncio.gather(*(transport.post("/v1", b"{}", {}) for _ in range(many)))
        clock.stop()
        await transport.aclose()
    assert sum(taken) == many * size
    assert [len(each.body) for each in whole] == [size] * many
    # Each begins with one read, since nobody knows yet that there is more: once streamed, once let go on, once whole.
    over = [each for each in read.values() if each > ANSWERS_A_TURN * READ_BYTES + many * LARGE_READ]
    assert len(over) <= 4, over
    assert sum(read.values()) > 10 * sum(over)
