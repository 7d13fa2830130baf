"""Routes on fakes: replicas, circuits, places and deadlines, what stays here, and a reason on record for each."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from engines.errors import ConnectFailed, EngineError, Refused
from gateway.errors import Forbidden, GatewayError, OutOfService, Unavailable, UpstreamTimeout
from gateway.pipeline.authenticate import authenticate
from gateway.pipeline.authorize import authorize
from gateway.pipeline.completion import complete, stream
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.route import choose_route
from gateway.pipeline.tries import Tries
from gateway.routing import traffic as traffic_module
from gateway.routing.seats import SeatsAway
from gateway.spool.records import Attempt, Settlement
from policies.calling import EndpointRules, EntityRules, Sticky
from policies.catalog import EntityKind
from policies.circuits import Circuit, State
from policies.routing import RESIDENCY, Route
from tests.pipeline.fakes import (
    ENDPOINT,
    FIRST,
    SECOND,
    SNAPSHOT,
    Outlet,
    Transport,
    World,
    frames,
    plain_answer,
)


def world_of(*entities: Any, endpoint: Any = None, **more: Any) -> World:
    """A world whose endpoint `chat` has these entities."""
    world = World()
    changed = replace(
        endpoint or ENDPOINT, entities=entities, fallbacks=tuple(each.name for each in entities[1:])
    )
    world.catalog.snapshot = replace(SNAPSHOT, endpoints={"chat": changed}, **more)
    return world


async def walk(world: World, exchange: Exchange) -> bytes:
    await authenticate(world.line, exchange)
    return await complete(world.line, exchange)


async def flow(world: World, exchange: Exchange) -> list[bytes]:
    await authenticate(world.line, exchange)
    outlet = Outlet()
    await stream(world.line, exchange, outlet)
    return outlet.frames


def tries(world: World) -> list[tuple[str, str, str | None]]:
    """Every attempt on record, the last one of each settlement included: entity, outcome, reason."""
    records = [each if isinstance(each, Attempt) else each.last for each in world.spool.records
               if isinstance(each, Attempt | Settlement)]  # fmt: skip
    return [(each.entity_name, each.outcome, each.reason) for each in records if each is not None]


def replicas(world: World, *faults: EngineError | None) -> list[Transport]:
    """Addresses of the first entity, each with what it answers."""
    made = [Transport() for _ in faults]
    for transport, fault in zip(made, faults, strict=True):
        transport.answer = fault or plain_answer("hello", 3, 2)
        transport.pieces = frames(3)
    world.engines.replicas["e1"] = {f"r{at}": each for at, each in enumerate(made)}
    return made


async def test_another_replica_is_asked_at_once_and_both_calls_are_on_record() -> None:
    world = world_of(FIRST)
    replicas(world, ConnectFailed("x"), None)
    for _ in range(20):
        await walk(world, world.exchange())
    assert set(world.engines.called) == {"r0", "r1"}
    assert world.traffic.target(FIRST, "r0").circuit.state is State.OPEN
    seen = tries(world)
    assert ("first", "error", None) in seen
    assert ("first", "ok", "fallback") in seen
    # Once the circuit is open nothing goes there.
    before = world.engines.called.count("r0")
    for _ in range(20):
        await walk(world, world.exchange())
    assert world.engines.called.count("r0") == before


async def test_a_circuit_that_is_due_is_tried_by_one_call_and_closes() -> None:
    world = world_of(FIRST)
    ill, _ = replicas(world, ConnectFailed("x"), None)
    for _ in range(20):
        await walk(world, world.exchange())
    ill.answer = plain_answer("hello", 3, 2)
    world.clock_ms += 6_000
    await walk(world, world.exchange())
    assert world.engines.called[-1] == "r0", "the probe is made by the first call that comes"
    assert world.traffic.target(FIRST, "r0").circuit.state is State.CLOSED


async def test_an_open_circuit_excludes_an_entity_with_its_reason_while_another_can_answer() -> None:
    world = world_of(FIRST, SECOND)
    world.engines.transports["e1"].answer = Refused(500, b"")
    for _ in range(5):
        await walk(world, world.exchange())
    world.spool.records.clear()
    await walk(world, world.exchange())
    (first, outcome, reason), answered = tries(world)
    assert (first, outcome) == ("first", "excluded")
    assert reason is not None and "circuit is open" in reason and "upstream_500" in reason
    assert answered[:2] == ("second", "ok")
    # With nobody else to ask, the last one is tried however its circuit stands.
    world.engines.reasons["e2"] = "it is away"
    world.engines.transports["e1"].answer = plain_answer("back", 3, 2)
    assert b"back" in await walk(world, world.exchange())


async def test_while_one_call_tries_a_circuit_others_keep_away_until_it_has_told() -> None:
    world = world_of(FIRST)
    replicas(world, ConnectFailed("x"), None)
    for _ in range(20):
        await walk(world, world.exchange())
    world.clock_ms += 6_000
    choose: dict[str, Any] = {"tried": (), "prefix": None, "tokens": 1, "stream": False}
    assert [world.traffic.choose(FIRST, ("r0", "r1"), **choose).address for _ in range(4)] == [
        "r0",
        *["r1"] * 3,
    ]
    assert world.traffic.target(FIRST, "r0").circuit.state is State.HALF_OPEN


async def test_with_every_circuit_open_what_must_stay_is_tried_here_and_nowhere_else() -> None:
    here = replace(FIRST, kind=EntityKind.LOCAL)
    world = world_of(here, SECOND, endpoint=replace(ENDPOINT, local_only=True))
    world.engines.transports["e1"].answer = ConnectFailed("x")
    for _ in range(8):
        with pytest.raises(GatewayError):
            await walk(world, world.exchange())
    assert world.traffic.target(here, world.engines.addresses(here)[0]).circuit.state is State.OPEN
    exchange = world.exchange()
    await authenticate(world.line, exchange)
    authorize(exchange)
    assert exchange.local_only
    assert choose_route(world.line, exchange).order == (here,)
    # And whoever chose otherwise would be stopped on the way out.
    with pytest.raises(OutOfService):
        await Tries(world.line, exchange, Route((SECOND,))).next()
    assert not world.engines.transports["e2"].sent


async def test_attempts_that_fail_add_nothing_and_the_books_hold_the_answer_alone() -> None:
    world = world_of(FIRST, SECOND)
    world.engines.transports["e1"].answer = Refused(503, b"")
    await walk(world, world.exchange(max_tokens=10))
    assert world.reservations.settlements == [(3, 2, 3500)]
    assert [each[:2] for each in tries(world)] == [("first", "error"), ("second", "ok")]


async def test_a_stream_that_dies_before_its_first_token_is_had_elsewhere_and_one_that_dies_later_is_not() -> (
    None
):
    world = world_of(FIRST, SECOND)
    world.engines.transports["e1"].pieces = [frames(3)[0], ConnectFailed("x")]
    world.engines.transports["e2"].pieces = frames(3)
    shown = b"".join(await flow(world, world.exchange(stream=True)))
    assert shown.count(b'"role"') == 1
    assert b" w3" in shown and shown.endswith(b"data: [DONE]\n\n")
    assert [each[:2] for each in tries(world)] == [("first", "error"), ("second", "ok")]
    late = world_of(FIRST, SECOND)
    late.engines.transports["e1"].pieces = [*frames(3)[:2], ConnectFailed("x")]
    with pytest.raises(GatewayError):
        await flow(late, late.exchange(stream=True))
    assert [each[:2] for each in tries(late)] == [("first", "error")]


async def test_retries_are_made_only_when_all_were_tried_and_only_as_many_as_the_endpoint_allows() -> None:
    endpoint = replace(ENDPOINT, rules=EndpointRules(retries=2))
    world = world_of(FIRST, endpoint=endpoint)
    transport = world.engines.transports["e1"]
    answers = [Refused(500, b""), ConnectFailed("x"), None]

    async def post(*_: Any) -> Any:
        fault = answers.pop(0)
        if fault is not None:
            raise fault
        transport.post = Transport.post.__get__(transport)  # type: ignore[method-assign]
        return await transport.post("", b"{}", {})

    transport.post = post  # type: ignore[method-assign]
    await walk(world, world.exchange())
    assert tries(world) == [("first", "error", None), ("first", "error", "retry"), ("first", "ok", "retry")]


async def test_retries_end_with_their_budget_however_many_an_endpoint_allows() -> None:
    world = world_of(FIRST, endpoint=replace(ENDPOINT, rules=EndpointRules(retries=100)))
    world.line = replace(world.line, draw=lambda: 0.0)
    world.engines.transports["e1"].answer = Refused(500, b"")
    with pytest.raises(GatewayError):
        await walk(world, world.exchange())
    # What was saved up is all that there is: retries do not pay for further ones.
    assert len(tries(world)) - 1 == 10
    before = len(tries(world))
    with pytest.raises(GatewayError):
        await walk(world, world.exchange())
    assert len(tries(world)) == before + 1
    # Five calls that go well pay for one more.
    world.engines.transports["e1"].answer = plain_answer("hello", 3, 2)
    for _ in range(5):
        await walk(world, world.exchange())
    world.engines.transports["e1"].answer = Refused(500, b"")
    before = len(tries(world))
    with pytest.raises(GatewayError):
        await walk(world, world.exchange())
    assert len(tries(world)) > before + 1


async def test_a_retry_may_go_to_every_replica_once_more() -> None:
    world = world_of(FIRST)
    world.line = replace(world.line, draw=lambda: 0.0)
    replicas(world, ConnectFailed("x"), ConnectFailed("x"))
    with pytest.raises(GatewayError):
        await walk(world, world.exchange())
    assert sorted(world.engines.called) == ["r0", "r0", "r1", "r1"]


async def test_a_stream_that_breaks_off_in_its_middle_is_its_addresss_fault() -> None:
    world = world_of(FIRST, SECOND)
    world.engines.transports["e1"].pieces = frames(3, done=False)[:2]
    with pytest.raises(GatewayError):
        await flow(world, world.exchange(stream=True))
    [target] = world.traffic.targets.values()
    assert (target.circuit.failures, target.circuit.reason) == (1, "upstream_garbled")


def test_what_another_worker_found_out_takes_the_leave_to_probe_with_it() -> None:
    world = world_of(FIRST)
    target = world.traffic.target(FIRST, "r0")
    target.probe = True
    target.latency_us[True] = 5.0
    assert (
        target.load(stream=True, now_ms=0).latency_us,
        target.load(stream=False, now_ms=0).latency_us,
    ) == (5.0, 0.0)
    world.traffic.told(target.key, Circuit(State.OPEN, 9_000, 1, 5_000))
    assert (target.circuit.state, target.probe) == (State.OPEN, False)


async def test_a_lease_that_is_ended_again_gives_nothing_back_twice() -> None:
    world = world_of(replace(FIRST, rules=EntityRules(concurrency=2)), SECOND)
    exchange = world.exchange()
    await walk(world, exchange)
    lease = exchange.lease
    assert lease is not None
    lease.end()
    lease.end("upstream_500")
    assert (lease.target.calls, lease.target.tokens, lease.target.circuit.failures) == (0, 0, 0)
    found = world.traffic.places(world.catalog.snapshot.endpoints["chat"].entities[0])
    assert found is not None and found[0].running == 0


@pytest.mark.parametrize(
    ("fault", "calls"),
    [(Refused(401, b""), 1), (Refused(429, b"", retry_after_ms=30_000), 1), (Refused(500, b""), 2)],
)
async def test_what_would_say_the_same_again_or_asks_for_long_is_not_tried_again(
    fault: Any, calls: int
) -> None:
    world = world_of(FIRST)
    world.engines.transports["e1"].answer = fault
    with pytest.raises(GatewayError):
        await walk(world, world.exchange())
    assert len(tries(world)) == calls


async def test_what_must_stay_here_never_leaves_though_everything_here_is_dead() -> None:
    here, there = replace(FIRST, kind=EntityKind.LOCAL), SECOND
    for local_endpoint in (True, False):
        endpoint = replace(ENDPOINT, local_only=local_endpoint)
        groups = frozenset() if local_endpoint else frozenset({"g1"})
        world = world_of(here, there, endpoint=endpoint, local_groups=groups)
        world.engines.transports["e1"].answer = ConnectFailed("x")
        for _ in range(8):
            with pytest.raises(GatewayError):
                await walk(world, world.exchange())
        world.engines.reasons["e1"] = "it is away"
        with pytest.raises(Unavailable):
            await walk(world, world.exchange())
        assert not world.engines.transports["e2"].sent
        assert ("second", "excluded", RESIDENCY) in tries(world)


async def test_an_endpoint_that_is_all_elsewhere_is_forbidden_to_those_who_must_stay() -> None:
    world = world_of(FIRST, SECOND, local_groups=frozenset({"g1"}))
    with pytest.raises(Forbidden) as caught:
        await walk(world, world.exchange())
    assert caught.value.code == "data_residency"
    assert not world.spool.records


async def test_one_key_stays_on_one_side_of_the_split() -> None:
    endpoint = replace(ENDPOINT, split=(("first", 50), ("second", 50)))

    async def side(sticky: str | None, seed: float, *, version: int = 1, who: str = "", **body: Any) -> str:
        world = world_of(FIRST, SECOND, endpoint=replace(endpoint, version=version))
        world.line = replace(world.line, draw=lambda: seed)
        exchange = world.exchange(**body)
        exchange.sticky = sticky
        if who:
            await authenticate(world.line, exchange)
            authorize(exchange)
            principal = replace(exchange.caller.principal, id=who)
            exchange.caller = replace(exchange.caller, principal=principal)
            return choose_route(world.line, exchange).order[0].name
        await walk(world, exchange)
        assert exchange.entity is not None
        return exchange.entity.name

    assert {await side(None, each) for each in (0.1, 0.9)} == {"first", "second"}
    for key in ("a", "b", "c"):
        assert len({await side(key, each) for each in (0.1, 0.9)}) == 1
        assert len({await side(None, each, user=key) for each in (0.1, 0.9)}) == 1
    assert {await side(key, 0.1) for key in "abcdefgh"} == {"first", "second"}
    # A change that leaves the split alone moves nobody.
    for key in "abcdefgh":
        assert len({await side(key, 0.1, version=each) for each in range(1, 5)}) == 1
    endpoint = replace(endpoint, rules=EndpointRules(sticky=Sticky.CONVERSATION))
    begun = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    later = [*begun, {"role": "assistant", "content": "a"}, {"role": "user", "content": "more"}]
    assert await side(None, 0.1, messages=begun) == await side(None, 0.9, messages=later)
    whose = {await side(None, 0.1, messages=begun, who=f"ann-{number}") for number in range(8)}
    assert whose == {"first", "second"}, "the same beginning is another conversation of another caller"


async def test_local_replicas_get_the_conversations_that_they_have_seen() -> None:
    world = world_of(replace(FIRST, kind=EntityKind.LOCAL))
    replicas(world, None, None, None)
    for question in ("one", "two", "three", "four", "five", "six"):
        begun = [{"role": "user", "content": question}]
        world.engines.called.clear()
        for more in range(4):
            await walk(
                world, world.exchange(messages=begun + [{"role": "user", "content": str(more)}] * more)
            )
        assert len(set(world.engines.called)) == 1


async def held(world: World, count: int, **more: Any) -> list[asyncio.Task[bytes]]:
    """Calls that wait for an upstream which does not answer."""
    world.engines.transports["e1"].answer = None
    tasks: list[asyncio.Task[bytes]] = []
    for _ in range(count):
        exchange = world.exchange()
        for name, value in more.items():
            setattr(exchange, name, value)
        tasks.append(asyncio.create_task(walk(world, exchange)))
        await settled_down()
    return tasks


async def settled_down() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def ended(tasks: list[asyncio.Task[bytes]]) -> None:
    for each in tasks:
        each.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_full_entity_refuses_at_once_with_a_time_to_come_back_and_says_so_on_record() -> None:
    world = world_of(replace(FIRST, rules=EntityRules(concurrency=2, queue=2, principal_percent=100)))
    tasks = await held(world, 4)
    assert len(world.engines.called) == 2
    with pytest.raises(Unavailable) as caught:
        await walk(world, world.exchange())
    assert caught.value.code == "overloaded"
    assert 1 <= (caught.value.retry_after_seconds or 0) <= 10
    assert ("first", "excluded", "its queue is full") in tries(world)
    await ended(tasks)
    world.engines.transports["e1"].answer = plain_answer("hello", 3, 2)
    await walk(world, world.exchange())


class OfTwo:
    """Counts places for workers that are not really there; the port `Seats`."""

    def __init__(self) -> None:
        self.taken = 0
        self.asked = 0
        self.away = False

    async def take(self, entity_id: str, places: int) -> bytes | None:
        self.asked += 1
        if self.away:
            raise SeatsAway
        if self.taken >= places:
            return None
        self.taken += 1
        return b"seat"

    def give_back(self, seat: bytes) -> None:
        assert seat == b"seat"
        self.taken -= 1


def of_three_workers(rules: EntityRules, *more: Any) -> tuple[World, OfTwo]:
    """A worker of three that hear each other."""
    world, seats = world_of(replace(FIRST, rules=rules), *more), OfTwo()
    world.traffic.workers, world.traffic.alone, world.traffic.seats = 3, False, seats
    return world, seats


async def test_of_fewer_places_than_workers_each_call_is_given_one_of_all() -> None:
    world, seats = of_three_workers(EntityRules(concurrency=2, principal_percent=100))
    tasks = await held(world, 2)
    assert (seats.taken, len(world.engines.called)) == (2, 2)
    await ended(tasks)
    assert seats.taken == 0
    # Other workers have them all: without a queue nobody waits for that.
    seats.taken = 2
    with pytest.raises(Unavailable) as caught:
        await walk(world, world.exchange())
    assert caught.value.code == "overloaded"
    assert tries(world)[-1] == ("first", "excluded", "its places are taken")
    seats.taken = 1
    world.engines.transports["e1"].answer = plain_answer("hello", 3, 2)
    await walk(world, world.exchange())
    assert seats.taken == 1
    found = world.traffic.places(world.catalog.snapshot.endpoints["chat"].entities[0])
    assert found is not None
    assert found[0].running == 0


async def test_a_place_that_another_worker_has_is_waited_for_where_there_is_a_queue() -> None:
    world, seats = of_three_workers(EntityRules(concurrency=1, queue=4, queue_ms=60_000))
    world.line = replace(world.line, monotonic_ns=time.monotonic_ns)
    seats.taken = 1
    call = asyncio.create_task(walk(world, world.exchange()))
    async with asyncio.timeout(30):
        while seats.asked < 3:
            await asyncio.sleep(0.01)
        seats.taken = 0
        await call
    assert seats.taken == 0
    assert world.spool.of(Settlement)[-1].queue_us > 0
    # Whoever leaves while it waits, and whoever waits too long, leaves nothing behind.
    seats.taken = 1
    await ended(await held(world, 2))
    exchange = world.exchange()
    exchange.deadline_ns = time.monotonic_ns() + 30_000_000
    with pytest.raises(Unavailable):
        await walk(world, exchange)
    found = world.traffic.places(world.catalog.snapshot.endpoints["chat"].entities[0])
    assert found is not None
    assert (found[0].running, found[0].waiting, seats.taken) == (0, 0, 1)


async def test_where_nobody_counts_each_worker_has_one_place() -> None:
    world, seats = of_three_workers(EntityRules(concurrency=2, principal_percent=100), SECOND)
    seats.away = True
    tasks = await held(world, 1)
    await walk(world, world.exchange())
    assert tries(world)[-1][:2] == ("second", "ok")
    await ended(tasks)
    assert world.engines.called == ["one", "two"]


async def test_places_that_are_not_fewer_than_workers_are_asked_of_nobody() -> None:
    world, seats = of_three_workers(EntityRules(concurrency=3))
    await walk(world, world.exchange())
    assert seats.asked == 0


async def test_a_full_entity_gives_way_to_the_next() -> None:
    world = world_of(replace(FIRST, rules=EntityRules(concurrency=1)), SECOND)
    tasks = await held(world, 1)
    await walk(world, world.exchange())
    assert tries(world)[-1][:2] == ("second", "ok")
    await ended(tasks)


async def test_interactive_calls_come_before_batch_ones_and_waiting_is_in_the_books() -> None:
    world = world_of(replace(FIRST, rules=EntityRules(concurrency=1, queue=4, principal_percent=100)))
    (running,) = await held(world, 1)
    (batch,) = await held(world, 1, batch=True)
    interactive = await held(world, 1)
    order: list[str] = []
    batch.add_done_callback(lambda _: order.append("batch"))
    interactive[0].add_done_callback(lambda _: order.append("interactive"))
    world.engines.transports["e1"].answer = plain_answer("hello", 3, 2)
    running.cancel()
    await asyncio.gather(batch, *interactive)
    await asyncio.gather(running, return_exceptions=True)
    assert order == ["interactive", "batch"]
    # The first of those that waited is the last that was let go.
    _, first, last = world.spool.of(Settlement)
    assert 0 < first.queue_us < last.queue_us


async def test_a_call_that_leaves_the_queue_leaves_no_place_behind() -> None:
    world = world_of(replace(FIRST, rules=EntityRules(concurrency=1, queue=4, principal_percent=100)))
    tasks = await held(world, 4)
    await ended(tasks[::-1])
    found = world.traffic.places(world.catalog.snapshot.endpoints["chat"].entities[0])
    assert found is not None
    assert (found[0].running, found[0].waiting) == (0, 0)
    assert world.reservations.settlements == [(0, 0, 0)] * 4


async def test_nobody_waits_in_a_queue_beyond_its_deadline() -> None:
    world = world_of(replace(FIRST, rules=EntityRules(concurrency=1, queue=4, queue_ms=60_000)))
    world.line = replace(world.line, monotonic_ns=time.monotonic_ns)
    tasks = await held(world, 1)
    exchange = world.exchange()
    exchange.deadline_ns = time.monotonic_ns() + 30_000_000
    async with asyncio.timeout(30):
        with pytest.raises(Unavailable):
            await walk(world, exchange)
    assert ("first", "excluded", "no place became free in time") in tries(world)
    await ended(tasks)


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
async def test_a_deadline_ends_the_call_and_blames_nobody(streamed: bool) -> None:
    world = world_of(FIRST, SECOND)
    world.line = replace(world.line, monotonic_ns=time.monotonic_ns)
    world.engines.transports["e1"].answer = None
    world.engines.transports["e1"].open = world.engines.transports["e1"].post  # type: ignore[method-assign]
    exchange = world.exchange(stream=streamed)
    exchange.deadline_ns = time.monotonic_ns() + 30_000_000
    with pytest.raises(UpstreamTimeout):
        await (flow if streamed else walk)(world, exchange)
    assert [each[:2] for each in tries(world)] == [("first", "timeout")]
    assert world.traffic.target(FIRST, "one").circuit.failures == 0
    assert not world.engines.transports["e2"].sent


async def test_a_deadline_in_the_middle_of_a_stream_ends_it_with_an_error_and_what_was_told_is_paid() -> None:
    world = world_of(FIRST)
    world.line = replace(world.line, monotonic_ns=time.monotonic_ns)
    world.engines.transports["e1"].pieces = [*frames(5, done=False)[:3], None]
    exchange = world.exchange(stream=True)
    exchange.deadline_ns = time.monotonic_ns() + 50_000_000
    with pytest.raises(UpstreamTimeout):
        await flow(world, exchange)
    (end,) = world.spool.of(Settlement)
    assert (end.status, end.error_code) == ("error", "deadline_exceeded")
    assert end.last is not None
    assert end.last.outcome == "timeout", "as of one that ran out of time before its first byte"
    assert end.last is not None and end.last.output == 2


@pytest.mark.parametrize("rules", [EntityRules(first_token_ms=20), EntityRules(total_ms=20)])
async def test_an_entity_that_is_slow_to_its_first_token_gives_way(rules: EntityRules) -> None:
    world = world_of(replace(FIRST, rules=rules), SECOND)
    world.engines.transports["e1"].pieces = [frames(1)[0], None]
    world.engines.transports["e2"].pieces = frames(2)
    assert (await flow(world, world.exchange(stream=True)))[-1] == b"data: [DONE]\n\n"
    assert [each[:2] for each in tries(world)] == [("first", "timeout"), ("second", "ok")]


@pytest.mark.parametrize("status", [307, 401, 402, 403, 404, 408, 409, 425, 429, 500, 529])
async def test_who_refuses_for_a_reason_of_its_own_gives_way_to_the_next(status: int) -> None:
    world = world_of(FIRST, SECOND)
    world.engines.transports["e1"].answer = Refused(status, b"")
    await walk(world, world.exchange())
    assert [each[:2] for each in tries(world)] == [("first", "error"), ("second", "ok")]


@pytest.mark.parametrize("status", [400, 413, 415, 422])
async def test_what_is_refused_for_what_was_asked_is_asked_of_nobody_else(status: int) -> None:
    world = world_of(FIRST, SECOND)
    world.engines.transports["e1"].answer = Refused(status, b"")
    with pytest.raises(GatewayError):
        await walk(world, world.exchange())
    assert [each[:2] for each in tries(world)] == [("first", "error")]


def test_so_many_conversations_are_remembered_and_the_one_that_came_first_goes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(traffic_module, "_HOMES", 4)
    traffic = world_of(FIRST).traffic
    traffic.elsewhere_begun((FIRST.id, bytes([number]), "e1@r0", 1) for number in range(6))
    known = traffic._homes  # pyright: ignore[reportPrivateUsage]
    assert [digest for _, digest in known] == [bytes([number]) for number in range(2, 6)]


def test_what_nobody_called_for_an_hour_is_forgotten_and_what_runs_is_not() -> None:
    world = world_of(FIRST, SECOND)
    traffic = world.traffic
    busy, idle = traffic.target(FIRST, "r0"), traffic.target(SECOND, "r1")
    busy.calls = 1
    for each in (FIRST, SECOND):
        traffic.budget(each)
        traffic.places(replace(each, rules=EntityRules(concurrency=1)))
    world.clock_ms += 61_000
    traffic.sweep()
    assert traffic.targets.keys() == {busy.key, idle.key}
    world.clock_ms += 3_600_000
    traffic.sweep()
    assert traffic.targets.keys() == {busy.key}
    assert traffic.budgets.keys() == {FIRST.id}
    assert traffic._places.keys() == {FIRST.id}  # pyright: ignore[reportPrivateUsage]


async def test_without_an_entity_that_may_answer_there_is_no_call() -> None:
    world = world_of(FIRST)
    world.engines.reasons["e1"], world.engines.gone = "it is gone", True
    with pytest.raises(OutOfService):
        await walk(world, world.exchange())
    assert tries(world) == [("first", "excluded", "it is gone")]


async def test_an_address_that_nothing_may_connect_to_is_a_try_that_failed_and_the_next_entity_answers() -> (
    None
):
    for entities, outcomes in (((FIRST, SECOND), ["error", "ok"]), ((FIRST,), ["error"])):
        world = world_of(*entities)
        adapter = world.engines.adapter

        def refused(entity: Any, address: str, adapter: Any = adapter) -> Any:
            if entity.id == "e1":
                raise ConnectFailed("not an address of the public internet")
            return adapter(entity, address)

        world.engines.adapter = refused  # type: ignore[method-assign]
        if len(entities) == 2:
            await walk(world, world.exchange())
        else:
            with pytest.raises(GatewayError):
                await walk(world, world.exchange())
        assert [outcome for _, outcome, _ in tries(world)] == outcomes
