"""A call that outlives its process, on fakes: kept before it is settled, begun again under its one admission."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engines.errors import ConnectFailed
from gateway.errors import GatewayError, NotFound
from gateway.pipeline.authenticate import authenticate
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.kept import SHUTDOWN, Begun, Outcome, complete_kept, end_begun
from gateway.spool.books import Place
from gateway.spool.joining import Entry, settled
from gateway.spool.orphans import notes
from gateway.spool.records import Attempt, Intent, Progress, Settlement
from gateway.sqlcalls.resumed import begun as read_begun
from tests.pipeline.fakes import World

DEAD = bytes(15) + b"\x07"


class Safe:
    """Where outcomes are put, and what the spool held by then."""

    def __init__(self, world: World, holds: bool = True) -> None:
        self.world = world
        self.holds = holds
        self.kept: list[tuple[Outcome, Settlement]] = []
        self.settled_before: list[int] = []

    async def __call__(self, outcome: Outcome, settlement: Settlement) -> bool:
        self.kept.append((outcome, settlement))
        self.settled_before.append(len(self.world.spool.of(Settlement)))
        return self.holds


async def ready(world: World, **body: Any) -> Exchange:
    exchange = world.exchange(**body)
    exchange.resumable = True
    await authenticate(world.line, exchange)
    return exchange


def cut_short(world: World) -> Begun:
    """What the drainer leaves of a call whose process died while the engine worked on it."""
    (intent,) = world.spool.of(Intent)
    entry = Entry(intent, Place(1, 0))
    for each in world.spool.of(Progress):
        entry.take(each)
    return read_begun(notes(entry, DEAD))


async def begun_once(**body: Any) -> Begun:
    """A call that was under way when its process died."""
    world = World()
    exchange = await ready(world, **body)
    for each in world.engines.transports.values():
        each.answer = None
    exchange.stopped_by = SHUTDOWN
    task = asyncio.ensure_future(complete_kept(world.line, exchange, Safe(world)))
    while not world.spool.of(Progress):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not world.spool.of(Settlement)
    return cut_short(world)


async def test_an_answer_is_in_safety_with_its_settlement_before_it_is_settled() -> None:
    world = World()
    safe = Safe(world)
    outcome = await complete_kept(world.line, await ready(world, max_tokens=10), safe)
    assert isinstance(outcome, bytes)
    ((kept, end),) = safe.kept
    assert kept == outcome
    assert safe.settled_before == [0]
    (settlement,) = world.spool.of(Settlement)
    assert (end.status, end.last and end.last.cost_nano_usd) == ("ok", settlement.last.cost_nano_usd)


async def test_an_answer_that_nobody_waits_for_is_settled_as_left() -> None:
    world = World()
    exchange = await ready(world)
    with pytest.raises(asyncio.CancelledError):
        await complete_kept(world.line, exchange, Safe(world, holds=False))
    (settlement,) = world.spool.of(Settlement)
    assert (settlement.status, settlement.stopped_by, settlement.error_code) == (
        "cut",
        "client",
        "client_left",
    )


async def test_a_failure_is_an_outcome_that_is_kept_as_well() -> None:
    world = World()
    for each in world.engines.transports.values():
        each.answer = ConnectFailed("gone")
    safe = Safe(world)
    outcome = await complete_kept(world.line, await ready(world), safe)
    assert isinstance(outcome, GatewayError)
    assert safe.kept[0][1].status == "error"


async def test_a_call_that_is_begun_again_keeps_its_admission_and_its_caller_bears_one_attempt() -> None:
    begun = await begun_once()
    assert [each.outcome for each in begun.attempts] == ["interrupted"]
    world = World()
    exchange = await ready(world)
    outcome = await complete_kept(world.line, exchange, Safe(world), begun)
    assert isinstance(outcome, bytes)
    (intent,) = world.spool.of(Intent)
    assert (intent.sequence, intent.admitted_at_ms, intent.charges) == (
        begun.intent.sequence,
        begun.intent.admitted_at_ms,
        begun.intent.charges,
    )
    assert intent.admitted_by == DEAD
    entry = Entry(intent, Place(1, 0))
    for record in world.spool.of(Attempt):
        entry.take(record)
    (end,) = world.spool.of(Settlement)
    posting = settled(entry, end, bytes(16))
    assert [(each.attempt, each.outcome, each.borne) for each in posting.attempts] == [
        (1, "interrupted", False),
        (2, "ok", True),
    ]
    assert posting.request.cost_nano_usd == posting.attempts[1].cost_nano_usd
    assert len(world.reservations.settlements) == 1


async def test_who_may_no_longer_call_is_refused_and_the_books_are_closed() -> None:
    begun = await begun_once()
    world = World()
    exchange = await ready(world)
    exchange.request.model = "gone-meanwhile"
    with pytest.raises(NotFound):
        await complete_kept(world.line, exchange, Safe(world), begun)
    (settlement,) = world.spool.of(Settlement)
    assert (settlement.status, settlement.last) == ("error", None)


async def test_a_call_that_nobody_waits_for_any_more_is_closed_at_no_cost() -> None:
    begun = await begun_once()
    world = World()
    end_begun(world.line, begun, "cut", error_code="client_left", stopped_by="client")
    (intent,), (end,) = world.spool.of(Intent), world.spool.of(Settlement)
    entry = Entry(intent, Place(1, 0))
    for record in world.spool.of(Attempt):
        entry.take(record)
    posting = settled(entry, end, bytes(16))
    assert (posting.request.status, posting.request.cost_nano_usd) == ("cut", 0)
    assert world.reservations.settlements == [(0, 0, 0)]
