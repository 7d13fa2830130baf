"""A stream's pieces on their way: what is noted and when, whatever the frames look like and however they come together."""

from __future__ import annotations

import asyncio
import sys
from types import FrameType
from typing import Any

import pytest

from engines.chat_stream import ChatStream
from engines.openai import OpenAIEngine
from gateway.pipeline.authenticate import authenticate
from gateway.pipeline.completion import stream
from gateway.pipeline.passage import Passage
from gateway.spool.records import Intent, Progress, Settlement
from tests.pipeline.fakes import FIRST, SNAPSHOT, Hold, Outlet, Transport, World, frames


def passage(world: World, outlet: Outlet, *, limit: int = 10_000) -> tuple[Passage, ChatStream, Any]:
    """A stream that is admitted and whose upstream is about to send."""
    exchange = world.exchange(stream=True)
    exchange.snapshot, exchange.entity, exchange.attempt = SNAPSHOT, FIRST, 1
    exchange.reservation = Hold(exchange.id_text, limit)
    reader = ChatStream(show_usage=False, show_running=False, limit=limit)
    return Passage(world.line, exchange, reader, outlet), reader, exchange


@pytest.mark.parametrize("running", [True, False], ids=["counted", "not counted"])
def test_a_piece_like_the_last_one_takes_few_calls(running: bool) -> None:
    """On its way it finds nothing in the processor's caches: there calls are what costs."""
    world, calls = World(), 0
    way, _, _ = passage(world, Outlet())
    *pieces, last = frames(20, running=running, done=False)[:-1]
    for piece in pieces:
        assert way.take(piece)

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        own = "/engines/" in frame.f_code.co_filename or "/gateway/" in frame.f_code.co_filename
        calls += event == "call" and own

    sys.setprofile(count)
    try:
        way.take(last)
    finally:
        sys.setprofile(None)
    # take, feed and next; the outlet's, the clock's and the table's are the fakes' own.
    assert calls == 3


@pytest.mark.parametrize("running", [True, False], ids=["counted", "not counted"])
@pytest.mark.parametrize("together", [1, 2, 7])
@pytest.mark.parametrize("limit", [10_000, 130])
async def test_what_is_noted_is_the_same_whether_frames_are_alike_or_not(
    running: bool, together: int, limit: int
) -> None:
    sent = frames(300, running=running, done=False)
    pieces = [b"".join(sent[at : at + together]) for at in range(0, len(sent), together)]

    def run(lessons: int) -> object:
        world, outlet = World(), Outlet()
        way, reader, exchange = passage(world, outlet, limit=limit)
        reader._lessons = lessons
        went_on = [way.take(piece) for piece in pieces[: limit // together]]
        way.meter.take_over()
        marks = [each.completion_tokens for each in world.spool.of(Progress)]
        told = exchange.count, exchange.counted, exchange.source
        return outlet.frames, went_on, world.spool.seen, marks, told, world.reservations.top_ups

    assert run(8) == run(0)


@pytest.mark.parametrize("running", [True, False], ids=["counted", "not counted"])
def test_a_slow_stream_is_on_record_every_half_second(running: bool) -> None:
    now = [0]
    world = World()
    object.__setattr__(world.line, "monotonic_ns", lambda: now[0])
    way, _, _ = passage(world, Outlet())
    for piece in frames(41, running=running, done=False)[:-1]:
        assert way.take(piece)
        now[0] += 100_000_000
    marks = [each.completion_tokens for each in world.spool.of(Progress)]
    assert marks == list(range(0, 41, 5))


async def test_an_answer_that_comes_whole_is_settled_like_a_plain_one_before_its_client_gets_any_of_it() -> (
    None
):
    world = World()
    world.engines.transports["e1"].pieces = [b"".join(frames(100))]
    exchange = world.exchange(stream=True)
    await authenticate(world.line, exchange)
    settled: list[int] = []
    outlet = Outlet(lambda _: settled.append(len(world.spool.of(Settlement))))
    await stream(world.line, exchange, outlet)
    assert settled == [1]
    assert [type(each) for each in world.spool.records] == [Intent, Settlement]
    assert (world.spool.slots, world.spool.ended) == (0, [])
    assert world.reservations.settlements[0][1] == 100
    assert outlet.frames[0].count(b"data: ") == 102


@pytest.mark.parametrize("running", [True, False], ids=["counted", "not counted"])
async def test_an_answer_that_is_like_an_earlier_one_is_settled_as_if_it_were_the_first(
    running: bool,
) -> None:
    whole = b"".join(frames(100, running=running))
    adapter = OpenAIEngine(Transport(), is_vllm=False)

    async def run() -> object:
        world, outlet = World(), Outlet()
        world.engines.adapter = lambda entity, address: adapter  # type: ignore[method-assign]
        adapter.transport.pieces = [whole]  # type: ignore[attr-defined]
        exchange = world.exchange(stream=True)
        await authenticate(world.line, exchange)
        await stream(world.line, exchange, outlet)
        (end,) = world.spool.of(Settlement)
        told = end.status, end.finish_reason, end.last.output, end.last.fresh_input, exchange.doubt
        return b"".join(outlet.frames), told, world.reservations.settlements

    first = await run()
    assert adapter._forms._known
    assert await run() == first


async def test_the_piece_that_ends_an_answer_is_noted_and_waits_for_the_settlement() -> None:
    world = World()
    sent = frames(20)
    world.engines.transports["e1"].pieces = [*sent[:-4], b"".join(sent[-4:])]
    exchange = world.exchange(stream=True)
    await authenticate(world.line, exchange)

    def watch(frame: bytes) -> None:
        if b" w20" in frame:
            assert len(world.spool.of(Settlement)) == 1
            assert world.spool.seen[-1] == (1, 20)

    outlet = Outlet(watch)
    await stream(world.line, exchange, outlet)
    assert b" w20" in outlet.frames[-1]
    assert outlet.frames[-1].endswith(b"data: [DONE]\n\n")
    assert world.spool.ended == [1]


@pytest.mark.parametrize("together", [1, 3])
async def test_a_client_that_leaves_between_pieces_that_are_alike_pays_for_all_it_got(together: int) -> None:
    world = World()
    sent = frames(60, done=False)[:-1]
    pieces = [b"".join(sent[at : at + together]) for at in range(0, len(sent), together)]
    world.engines.transports["e1"].pieces = [*pieces, None]
    exchange = world.exchange(stream=True)
    await authenticate(world.line, exchange)
    task = asyncio.create_task(stream(world.line, exchange, Outlet()))
    for _ in range(200):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.reservations.settlements[0][1] == world.spool.seen[-1][1] == 59
