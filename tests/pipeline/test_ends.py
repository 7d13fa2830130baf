"""Ends of streams give way to calls that are being admitted, one a turn; for milliseconds at most, and whole whoever leaves."""

from __future__ import annotations

import asyncio

import pytest

from gateway.pipeline.authenticate import authenticate
from gateway.pipeline.completion import stream
from gateway.pipeline.ends import Ends
from gateway.spool.records import Settlement
from tests.pipeline.fakes import Outlet, World, frames


def admitted(ends: Ends) -> None:
    """As whoever admits a call does it."""
    ends.admitting -= 1
    if ends.waiting:
        ends.next()


async def test_where_nobody_is_admitted_an_end_waits_for_nothing() -> None:
    turn = Ends().turn()
    with pytest.raises(StopIteration):
        turn.send(None)


async def test_ends_wait_for_admissions_and_then_go_one_a_turn_in_their_order() -> None:
    ends, gone = Ends(), list[int]()
    ends.admitting = 2

    async def end(number: int) -> None:
        await ends.turn()
        gone.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(end(number))
        await asyncio.sleep(0)
        admitted(ends)
        await asyncio.sleep(0)
        assert gone == []
        admitted(ends)
        await asyncio.sleep(0)
        assert gone == [0]
        # Another has come meanwhile: the others wait for it.
        ends.admitting += 1
        for _ in range(3):
            await asyncio.sleep(0)
        assert gone == [0, 1]
        admitted(ends)
    assert gone == [0, 1, 2]


async def test_an_end_waits_for_milliseconds_at_most() -> None:
    ends = Ends()
    ends.admitting = 1
    async with asyncio.timeout(5):
        await asyncio.gather(ends.turn(), ends.turn())


async def test_whose_caller_left_is_passed_over() -> None:
    ends = Ends()
    ends.admitting = 1
    left, stays = asyncio.create_task(ends.turn()), asyncio.create_task(ends.turn())
    await asyncio.sleep(0)
    left.cancel()
    admitted(ends)
    async with asyncio.timeout(5):
        await stays
    assert left.cancelled()


async def test_who_leaves_a_stream_that_waits_for_its_end_has_got_it_whole() -> None:
    world = World()
    world.engines.transports["e1"].pieces = frames(3)
    exchange = world.exchange(stream=True)
    await authenticate(world.line, exchange)
    world.line.ends.admitting = 1
    running = asyncio.create_task(stream(world.line, exchange, Outlet()))
    async with asyncio.timeout(5):
        while not world.line.ends.waiting:
            await asyncio.sleep(0)
    assert world.spool.of(Settlement) == []
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    (found,) = world.spool.of(Settlement)
    assert (found.status, found.finish_reason) == ("ok", "stop")
