"""Settlements correct what was charged, where it was charged, exactly once."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from gateway.counters.frames import ASK
from gateway.counters.reservations import Reservations
from gateway.counters.settler import CounterSettler
from gateway.errors import IdempotencyConflict, LimitExceeded, Unavailable
from policies.budgets import Budget
from policies.catalog import Price
from policies.limits import Metric, ScopeKind
from policies.windows import Calendar, Rolling, Unit
from tests.counters.conftest import Connect, World, caller_of, endpoint_of, limit_of, new_id, settle

_TWO_SECONDS = Rolling(2000)


async def test_in_every_window_no_more_than_the_limit_is_reserved_also_at_its_edge(
    worker: Reservations,
) -> None:
    world = World(limits=(limit_of(Metric.REQUESTS, 10, _TWO_SECONDS),))
    admitted: list[int] = []
    end = worker.link.now_ms() + 5000
    while worker.link.now_ms() < end:
        try:
            hold = await world.reserve(worker)
        except LimitExceeded:
            await asyncio.sleep(0.005)
        else:
            admitted.append(hold.admitted_at_ms)
    most = max(
        sum(start <= each < start + 2000 for each in admitted) for start in range(admitted[0], end, 10)
    )
    assert most == 10
    # And it is not needlessly strict: a window's worth comes back each 61 sixtieths of it.
    assert len(admitted) >= 20


async def test_a_refund_goes_into_the_bucket_that_was_charged(worker: Reservations) -> None:
    world = World(limits=(limit_of(Metric.TOTAL_TOKENS, 1000, _TWO_SECONDS),))
    early = await world.reserve(worker, 0, 600)
    await asyncio.sleep(1.2)
    late = await world.reserve(worker, 0, 400)
    await settle(worker, early, 0, 100)
    # 100 of the early bucket and 400 of the late one stand.
    probe = await world.reserve(worker, 0, 500)
    await settle(worker, probe, 0, 0)
    with pytest.raises(LimitExceeded):
        await world.reserve(worker, 0, 501)
    await asyncio.sleep(0.9)
    # Only the early bucket has left. A refund into the current bucket would free 500 more by now.
    await settle(worker, await world.reserve(worker, 0, 600), 0, 0)
    with pytest.raises(LimitExceeded):
        await world.reserve(worker, 0, 601)
    await settle(worker, late, 0, 400)


async def test_a_refund_that_comes_after_its_window_is_dropped_and_an_excess_counts_now(
    worker: Reservations,
) -> None:
    world = World(limits=(limit_of(Metric.TOTAL_TOKENS, 1000, Rolling(1000)),))
    refunded, exceeded = await world.reserve(worker, 0, 500), await world.reserve(worker, 0, 100)
    await asyncio.sleep(1.1)
    hold = await world.reserve(worker, 0, 300)
    await settle(worker, refunded, 0, 0)
    await settle(worker, exceeded, 0, 350)
    assert hold.parts[1] == (700,)
    assert (await world.reserve(worker, 0, 100)).parts[1] == (1000 - 300 - 250 - 100,)


async def test_top_ups_take_what_is_left_and_are_refunded_first(worker: Reservations) -> None:
    world = World(limits=(limit_of(Metric.TOTAL_TOKENS, 1000), limit_of(Metric.REQUESTS, 5)))
    hold = await world.reserve(worker, 100, 256, 32)
    assert await worker.top_up(hold, 256) == 256
    assert await worker.top_up(hold, 500) == 388
    assert hold.refusal is None
    assert await worker.top_up(hold, 256) == 0
    assert hold.refusal is not None
    assert (hold.refusal.limit, hold.refusal.remaining) == (world.limits[0].id, 0)
    assert hold.granted_output == 900
    assert [charge.fixed for charge in hold.charges] == [356, 1, 256, 388]
    await settle(worker, hold, 80, 300)
    # One request was counted, not one for each top-up.
    assert (await world.reserve(worker, 0, 0)).parts[1] == (620, 3)


async def test_a_top_up_stays_in_the_period_of_admission(worker: Reservations) -> None:
    budget = Budget("b", ScopeKind.DEPLOYMENT, Calendar(Unit.DAY), 1000)
    world = World(budgets=(budget,), endpoint=endpoint_of(Price("p", output=1_000_000)))
    hold = await world.reserve(worker, 0, 100)
    plan = hold.plan
    tap = plan.taps[0]
    assert await worker.top_up(hold, 100) == 100
    assert {charge.key for charge in hold.charges} == {tap.key}
    assert {charge.position for charge in hold.charges} == {tap.start_ms}


async def test_repeating_a_reservation_that_timed_out_has_no_second_effect(worker: Reservations) -> None:
    world = World(limits=(limit_of(Metric.TOTAL_TOKENS, 1000),))
    hold = await world.reserve(worker, 100, 200)
    call = hold.plan.call(hold.memory, ASK.pack(0, 200, 200, 100, 0))
    for _ in range(3):
        await worker.link.connection.ask(call)
    assert (await world.reserve(worker, 0, 100)).parts[1] == (600,)


async def test_a_reservation_under_way_when_its_request_ended_takes_no_effect(worker: Reservations) -> None:
    world = World(limits=(limit_of(Metric.TOTAL_TOKENS, 1000),))
    request = new_id()
    hold = await world.reserve(worker, 0, 100, request_id=request)
    await settle(worker, hold, 0, 0)
    with pytest.raises(Unavailable, match="already ended"):
        await world.reserve(worker, 0, 100, request_id=request)
    assert (await world.reserve(worker, 0, 1000)).parts[1] == (0,)


async def test_a_grant_whose_caller_gave_up_is_released(worker: Reservations) -> None:
    world = World(limits=(limit_of(Metric.TOTAL_TOKENS, 1000), limit_of(Metric.CONCURRENT_REQUESTS, 1)))
    before = world.reserve(worker, 0, 900)
    before.cancel()
    await worker.link.connection.ask(b"*1\r\n$4\r\nPING\r\n")
    assert await worker._outbox.drained(5)
    after = world.reserve(worker, 0, 900)
    await asyncio.wait([after])
    worker.abandon(after)
    assert await worker._outbox.drained(5)
    assert worker.held == 0
    assert (await world.reserve(worker, 0, 1000)).granted_output == 1000


async def test_the_end_of_a_call_frees_a_place_of_the_group_that_paid_and_of_no_other(
    worker: Reservations,
) -> None:
    limits = (
        limit_of(Metric.CONCURRENT_REQUESTS, 1, scope=ScopeKind.GROUP, subject="g1"),
        limit_of(Metric.CONCURRENT_REQUESTS, 5, scope=ScopeKind.GROUP, subject="g2"),
    )
    world = World(limits=limits, caller=caller_of("alice", ("g1", "g2")))
    first, second = await world.reserve(worker), await world.reserve(worker)
    assert (first.group_id, second.group_id) == ("g1", "g2")
    await settle(worker, second)
    assert (await world.reserve(worker)).group_id == "g2"
    await settle(worker, first)
    assert (await world.reserve(worker)).group_id == "g1"


async def test_settling_twice_changes_nothing(worker: Reservations) -> None:
    world = World(limits=(limit_of(Metric.TOTAL_TOKENS, 1000),))
    other = await world.reserve(worker, 0, 300)
    hold = await world.reserve(worker, 0, 400)
    await settle(worker, hold, 0, 100)
    await settle(worker, hold, 0, 100)
    hold.settled = False
    await settle(worker, hold, 0, 0)
    assert (await world.reserve(worker, 0, 100)).parts[1] == (500,)
    await settle(worker, other, 0, 300)


async def test_an_idempotency_key_is_claimed_once_and_freed_where_nothing_came_of_it(
    worker: Reservations,
) -> None:
    world = World(limits=(limit_of(Metric.REQUESTS, 100),))
    hold = await world.reserve(worker, 5, 5, idempotency=("k1", "body-a"))
    with pytest.raises(IdempotencyConflict, match="still running"):
        await world.reserve(worker, 5, 5, idempotency=("k1", "body-a"))
    with pytest.raises(IdempotencyConflict, match="another body"):
        await world.reserve(worker, 5, 5, idempotency=("k1", "body-b"))
    await settle(worker, hold, 0, 0)
    again = await world.reserve(worker, 5, 5, idempotency=("k1", "body-b"))
    assert again.parts[1] == (98,)  # neither conflict consumed anything
    await settle(worker, again, 4, 0)
    with pytest.raises(IdempotencyConflict, match="has ended") as caught:
        await world.reserve(worker, 5, 5, idempotency=("k1", "body-b"))
    assert caught.value.status == 409
    await world.reserve(worker, 5, 5, idempotency=("k2", "body-b"))


async def test_fifty_parallel_sends_of_one_idempotency_key_admit_one(connect: Connect) -> None:
    workers = [await connect() for _ in range(3)]
    world = World(limits=(limit_of(Metric.REQUESTS, 100),))
    outcomes = await asyncio.gather(
        *(world.reserve(workers[n % 3], 5, 5, idempotency=("k", "body")) for n in range(50)),
        return_exceptions=True,
    )
    assert sum(isinstance(each, IdempotencyConflict) for each in outcomes) == 49


async def test_the_drainer_settles_for_a_worker_that_died(connect: Connect, redis_url: str) -> None:
    dead, alive = await connect("dead"), await connect("alive")
    world = World(
        limits=(limit_of(Metric.TOTAL_TOKENS, 1000), limit_of(Metric.CONCURRENT_REQUESTS, 1)),
        budgets=(Budget("b", ScopeKind.USER_DEFAULT, Calendar(Unit.MONTH), 10**6),),
        endpoint=endpoint_of(Price("p", output=1_000_000)),
    )
    await asyncio.sleep(0.01)  # the request's id is younger than the epoch
    hold = await world.reserve(dead, 100, 256, 32)
    await dead.top_up(hold, 256)
    settler = CounterSettler(redis_url)
    await settler.start()
    await asyncio.wait_for(settler._ready.wait(), 5)
    for _ in range(2):
        await settler.settle(
            worker_id="dead", request_id=hold.request_id, charges=hold.charges, granted_output=512,
            prompt_tokens=90, completion_tokens=300, cost_nano_usd=300,
        )  # fmt: skip
    await settler.stop()
    after = await world.reserve(alive, 0, 0)
    assert after.parts[1] == (610, 0, 10**6 - 300)


async def test_what_a_dead_worker_was_granted_and_never_wrote_down_is_given_back_once(
    connect: Connect, redis_url: str
) -> None:
    dead, alive = await connect("dead"), await connect("alive")
    world = World(
        limits=(limit_of(Metric.TOTAL_TOKENS, 1000),),
        budgets=(Budget("b", ScopeKind.USER_DEFAULT, Calendar(Unit.MONTH), 10**6),),
        endpoint=endpoint_of(Price("p", output=1_000_000)),
    )
    await asyncio.sleep(0.01)  # the requests' ids are younger than the epoch
    lost = await world.reserve(dead, 100, 256, 32, idempotency=("again", "digest"))
    begun = await world.reserve(dead, 0, 100)
    await dead.top_up(begun, 50)
    ended = await world.reserve(dead, 0, 10)
    await settle(dead, ended, 0, 7, 7)
    settler = CounterSettler(redis_url)
    await settler.start()
    await asyncio.wait_for(settler._ready.wait(), 5)
    assert sorted(await settler.unsettled("dead")) == sorted([lost.request_id, begun.request_id])
    for _ in range(2):
        await settler.release(worker_id="dead", request_id=lost.request_id)
        # The top-up was granted, and the worker died before it had written that down.
        await settler.settle(
            worker_id="dead", request_id=begun.request_id, charges=begun.charges[:2],
            prompt_tokens=0, completion_tokens=20, cost_nano_usd=20,
        )  # fmt: skip
    assert await settler.unsettled("dead") == []
    async with Redis.from_url(redis_url) as redis:
        await redis.delete(dead._memory_prefix + lost.request_id.encode())
        await settler.release(worker_id="dead", request_id=lost.request_id)
    await settler.stop()
    after = await world.reserve(alive, 0, 0, idempotency=("again", "digest"))
    assert after.parts[1] == (1000 - 27, 10**6 - 27)


async def test_a_hold_ends_with_its_settlement_however_that_comes_out(
    connect: Connect, redis_url: str
) -> None:
    worker = await connect("w")
    world = World(
        limits=(
            limit_of(Metric.TOTAL_TOKENS, 1000, Rolling(3_600_000)),
            limit_of(Metric.REQUESTS, 1000, Calendar(Unit.DAY)),
            limit_of(Metric.TOTAL_TOKENS, 10_000),
        ),
    )
    async with Redis.from_url(redis_url) as redis:
        holds = worker.link.keys.holds(worker.link.epoch, "w")
        for used in (0, 60, 100, 200):
            hold = await world.reserve(worker, 0, 100)
            assert await redis.hlen(holds) == 1
            await settle(worker, hold, 0, used)
            assert await redis.hlen(holds) == 0
        brief = World(
            limits=(limit_of(Metric.TOTAL_TOKENS, 1000), limit_of(Metric.REQUESTS, 9, Rolling(3_600_000)))
        )
        await brief.reserve(worker, 0, 100)
        assert not await redis.exists(holds)


async def test_scripts_work_where_loading_them_is_forbidden_and_after_they_were_flushed(
    connect: Connect, redis_url: str
) -> None:
    async with Redis.from_url(redis_url) as redis:
        await redis.acl_setuser(
            "plain", enabled=True, passwords=["+secret"], keys=["{wb}:*"], commands=["+@all", "-script"]
        )
        await redis.script_flush()
        worker = await connect(url=redis_url + "&username=plain&password=secret")
        assert worker.standing.usable
        world = World(limits=(limit_of(Metric.TOTAL_TOKENS, 1000),))
        hold = await world.reserve(worker, 0, 400)
        await settle(worker, hold, 0, 100)
        await redis.script_flush()
        hold = await world.reserve(worker, 0, 400)
        await redis.script_flush()
        await settle(worker, hold, 0, 100)
        await redis.script_flush()
        hold = await world.reserve(worker, 0, 400, 32)
        assert hold.parts[1] == (400,)
        await redis.script_flush()
        assert await worker.top_up(hold, 500) == 400
