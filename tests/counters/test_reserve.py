"""One script decides all limits of a request, all or nothing."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest
from redis.asyncio import Redis

from gateway.counters.hold import Hold
from gateway.counters.reservations import Reservations
from gateway.errors import BudgetExhausted, Forbidden, LimitExceeded
from gateway.http.answering import apart
from policies.budgets import Budget
from policies.catalog import Price
from policies.limits import Metric, Mode, ScopeKind
from policies.principal import Group
from policies.windows import HOUR, MINUTE, SECOND, Calendar, Rolling, Unit
from tests.counters.conftest import Connect, World, caller_of, endpoint_of, limit_of, settle


async def test_of_twenty_parallel_calls_of_400_tokens_a_limit_of_1000_admits_exactly_two(
    connect: Connect,
) -> None:
    workers = [await connect() for _ in range(4)]
    world = World(limits=(limit_of(Metric.TOTAL_TOKENS, 1000, name="tokens"),))
    outcomes = await asyncio.gather(
        *(world.reserve(workers[number % 4], 144, 256) for number in range(20)), return_exceptions=True
    )
    admitted = [each for each in outcomes if not isinstance(each, BaseException)]
    refused = [each for each in outcomes if isinstance(each, BaseException)]
    assert len(admitted) == 2
    assert len(refused) == 18
    for error in refused:
        assert isinstance(error, LimitExceeded)
        assert error.code == "rate_limit_exceeded"
        assert error.retry_after_seconds is not None
        assert 59 <= error.retry_after_seconds <= 60
        assert error.detail.remaining == 200
        assert error.detail.requested == 400
        assert dict(error.headers)[b"x-ratelimit-remaining-tokens"] == b"200"
        assert "'alice'" in error.message
        assert "'tokens'" in error.message
    for hold in admitted:
        await settle(hold.home, hold, 100, 50)
    last = await world.reserve(workers[0], 0, 700)
    assert dict(apart(last.fields))[b"x-ratelimit-remaining-tokens"] == b"0"


async def test_a_grant_names_what_is_left_and_what_was_reserved(worker: Reservations) -> None:
    limits = (
        limit_of(Metric.REQUESTS, 10),
        limit_of(Metric.TOTAL_TOKENS, 1000),
        limit_of(Metric.INPUT_TOKENS, 500),
    )
    hold = await World(limits=limits).reserve(worker, 100, 250)
    headers = dict(apart(hold.fields))
    assert headers[b"x-ratelimit-limit-requests"] == b"10"
    assert headers[b"x-ratelimit-remaining-requests"] == b"9"
    assert headers[b"x-ratelimit-limit-tokens"] == b"500"
    assert headers[b"x-ratelimit-remaining-tokens"] == b"400"
    assert headers[b"x-ratelimit-reset-tokens"].startswith((b"1m", b"59", b"60"))
    assert headers[b"x-weighbridge-reserved"] == b"input=100, output=250"
    assert hold.sequence > 0
    assert [charge.fixed for charge in hold.charges] == [1, 350, 100]


async def test_a_refused_request_consumes_nothing_of_any_limit(worker: Reservations) -> None:
    limits = (
        limit_of(Metric.REQUESTS, 3),
        limit_of(Metric.INPUT_TOKENS, 1000),
        limit_of(Metric.OUTPUT_TOKENS, 100, scope=ScopeKind.ENDPOINT),
    )
    world = World(limits=limits)
    for _ in range(5):
        with pytest.raises(LimitExceeded) as caught:
            await world.reserve(worker, 10, 101)
        assert caught.value.detail.limit == limits[2].id
        assert caught.value.detail.scope == "endpoint 'chat'"
    hold = await world.reserve(worker, 1000, 100)
    assert hold.parts[1] == (0, 2, 0)


async def test_a_request_that_can_never_fit_is_told_so_and_not_to_retry(worker: Reservations) -> None:
    world = World(limits=(limit_of(Metric.TOTAL_TOKENS, 1000),))
    with pytest.raises(LimitExceeded, match="more than the limit ever allows") as caught:
        await world.reserve(worker, 900, 101)
    assert caught.value.should_retry is False
    assert caught.value.retry_after_seconds is None


async def test_a_refusal_says_when_enough_comes_back(worker: Reservations) -> None:
    world = World(limits=(limit_of(Metric.TOTAL_TOKENS, 1000, Rolling(20_000)),))
    await world.reserve(worker, 0, 900)
    with pytest.raises(LimitExceeded) as caught:
        await world.reserve(worker, 0, 200)
    now = worker.link.now_ms()
    assert 19_000 <= caught.value.detail.resets_at_ms - now <= 20_700
    assert caught.value.retry_after_seconds in (20, 21)


async def test_a_stream_may_start_with_what_is_left_if_that_is_of_use(worker: Reservations) -> None:
    world = World(limits=(limit_of(Metric.TOTAL_TOKENS, 300),))
    first = await world.reserve(worker, 100, 256, 32)
    assert first.granted_output == 200
    await settle(worker, first, 100, 140)
    second = await world.reserve(worker, 20, 256, 32)
    assert second.granted_output == 40
    with pytest.raises(LimitExceeded):
        await world.reserve(worker, 0, 256, 32)


async def test_the_first_group_with_room_is_charged_and_named(worker: Reservations) -> None:
    limits = (
        limit_of(Metric.REQUESTS, 1, scope=ScopeKind.GROUP, subject="g1"),
        limit_of(Metric.REQUESTS, 2, scope=ScopeKind.GROUP, subject="g2"),
    )
    groups = {"g1": Group("g1", "research"), "g2": Group("g2", "support")}
    world = World(limits=limits, caller=caller_of("alice", ("g1", "g2")), groups=groups)
    charged = [(await world.reserve(worker)).group_id for _ in range(3)]
    assert charged == ["g1", "g2", "g2"]
    with pytest.raises(LimitExceeded, match=r"group 'research'"):
        await world.reserve(worker)


async def test_a_caller_may_name_the_group_that_is_tried_first(worker: Reservations) -> None:
    limits = (limit_of(Metric.REQUESTS, 1, scope=ScopeKind.GROUP_DEFAULT),)
    groups = {"g1": Group("g1", "research"), "g2": Group("g2", "support")}
    world = World(limits=limits, caller=caller_of("alice", ("g1", "g2")), groups=groups)
    assert (await world.reserve(worker, group="support")).group_id == "g2"
    assert (await world.reserve(worker, group="g2")).group_id == "g1"
    with pytest.raises(Forbidden, match="in no group 'finance'"):
        await world.reserve(worker, group="finance")


async def test_a_group_whose_limits_refuse_leaves_no_trace_in_the_group_that_pays(
    worker: Reservations,
) -> None:
    limits = (
        limit_of(Metric.TOTAL_TOKENS, 100, MINUTE, ScopeKind.GROUP, "g1"),
        limit_of(Metric.TOTAL_TOKENS, 10, SECOND, ScopeKind.GROUP, "g1"),
        limit_of(Metric.TOTAL_TOKENS, 100, MINUTE, ScopeKind.GROUP, "g2"),
    )
    world = World(limits=limits, caller=caller_of("alice", ("g1", "g2")))
    hold = await world.reserve(worker, 50, 0)
    assert [charge.subject for charge in hold.charges] == ["g2"]
    again = await world.reserve(worker, 10, 0)
    assert [charge.subject for charge in again.charges] == ["g1", "g1"]
    assert again.parts[1][:2] == (90, 0)


async def test_observe_counts_beyond_its_amount_and_never_refuses(worker: Reservations) -> None:
    limits = (
        limit_of(Metric.TOTAL_TOKENS, 100, mode=Mode.OBSERVE),
        limit_of(Metric.TOTAL_TOKENS, 1000, HOUR),
    )
    world = World(limits=limits)
    holds = [await world.reserve(worker, 0, 250) for _ in range(4)]
    assert [hold.parts[1][0] for hold in holds] == [-150, -400, -650, -900]
    assert dict(apart(holds[0].fields))[b"x-ratelimit-limit-tokens"] == b"1000"
    with pytest.raises(LimitExceeded):
        await world.reserve(worker, 0, 250)


async def test_concurrency_is_given_back_by_settling_and_counted_over_workers(connect: Connect) -> None:
    one, two = await connect(), await connect()
    world = World(limits=(limit_of(Metric.CONCURRENT_REQUESTS, 2),))
    first, second = await world.reserve(one), await world.reserve(two)
    with pytest.raises(LimitExceeded, match="2 requests at once, 0 left") as caught:
        await world.reserve(two)
    assert caught.value.retry_after_seconds == 1
    await settle(one, first)
    third = await world.reserve(two)
    for hold in (second, third):
        await settle(two, hold)
    # A second settlement gives nothing back twice.
    third.settled = False
    await settle(two, third)
    assert (await world.reserve(one)).parts[1] == (1,)


async def test_a_dead_workers_running_requests_stop_counting(connect: Connect, redis_url: str) -> None:
    dead, alive = await connect("dead"), await connect("alive")
    world = World(limits=(limit_of(Metric.CONCURRENT_REQUESTS, 1),))
    await world.reserve(dead)
    with pytest.raises(LimitExceeded):
        await world.reserve(alive)
    async with Redis.from_url(redis_url) as redis:
        # Three seconds of silence, without the wait; `dead` beats once a second and would come back.
        await dead.link.stop()
        await redis.hset("{wb}:live", "dead", int(time.time() * 1000) - 3500)
        await world.reserve(alive)
        assert await redis.hget(f"{{wb}}:n:{world.limits[0].id}:u-alice", "dead") == b"1"
        await redis.hset("{wb}:live", "dead", int(time.time() * 1000) - 61_000)
        with pytest.raises(LimitExceeded):
            await world.reserve(alive)
        assert await redis.hget(f"{{wb}}:n:{world.limits[0].id}:u-alice", "dead") is None


async def test_money_is_reserved_at_the_dearest_price_and_settled_at_the_real_one(
    worker: Reservations,
) -> None:
    price = Price(
        "p", input=2_000_000, cache_read=500_000, output=4_000_000, reasoning=6_000_000, per_request=10
    )
    budget = Budget("b1", ScopeKind.USER_DEFAULT, Calendar(Unit.MONTH), 1000, name="team")
    world = World(budgets=(budget,), endpoint=endpoint_of(price))
    hold = await world.reserve(worker, 100, 50)
    assert [charge.fixed for charge in hold.charges] == [10 + 200 + 300]
    assert dict(apart(hold.fields))[b"x-weighbridge-reserved"] == b"input=100, output=50, nano_usd=510"
    with pytest.raises(
        BudgetExhausted, match=r"Budget 'team' of user 'alice': \$0\.000001 per calendar month"
    ) as caught:
        await world.reserve(worker, 100, 50)
    assert caught.value.detail.remaining == 490
    await settle(worker, hold, 90, 20, 300)
    assert (await world.reserve(worker, 100, 48)).parts[1] == (202,)


async def test_two_hundred_parallel_calls_spend_no_more_than_the_budget(connect: Connect) -> None:
    workers = [await connect() for _ in range(4)]
    world = World(
        budgets=(Budget("b1", ScopeKind.USER_DEFAULT, Calendar(Unit.MONTH), 1_000),),
        endpoint=endpoint_of(Price("p", per_request=100)),
    )
    outcomes = await asyncio.gather(
        *(world.reserve(workers[number % 4], 5, 5) for number in range(200)), return_exceptions=True
    )
    assert sum(not isinstance(each, BaseException) for each in outcomes) == 10
    assert sum(isinstance(each, BudgetExhausted) for each in outcomes) == 190


async def test_the_soonest_useful_refusal_is_the_one_that_holds_longest(worker: Reservations) -> None:
    limits = (
        limit_of(Metric.REQUESTS, 1, SECOND, name="burst"),
        limit_of(Metric.REQUESTS, 1, HOUR, name="hourly"),
    )
    world = World(limits=limits)
    await world.reserve(worker)
    with pytest.raises(LimitExceeded, match="'hourly'") as caught:
        await world.reserve(worker)
    assert caught.value.code == "insufficient_quota"


async def test_requests_without_limits_still_get_a_time_and_a_number(worker: Reservations) -> None:
    first, second = await World().reserve(worker, 5, 5), await World().reserve(worker, 5, 5)
    assert second.sequence == first.sequence + 1
    assert abs(first.admitted_at_ms - time.time() * 1000) < 5000
    worker.settle(first, prompt_tokens=5, completion_tokens=5, cost_nano_usd=0)
    assert worker.held == 0


async def test_every_key_expires(worker: Reservations, redis_url: str) -> None:
    limits = tuple(limit_of(metric, 10_000) for metric in Metric if metric is not Metric.MONEY)
    world = World(
        limits=(*limits, limit_of(Metric.REQUESTS, 9, Calendar(Unit.DAY, "Asia/Tokyo"))),
        budgets=(Budget("b", ScopeKind.DEPLOYMENT, Calendar(Unit.ONCE), 10**9),),
        endpoint=endpoint_of(Price("p", per_request=1)),
    )
    hold = await world.reserve(worker, 10, 10, idempotency=("key", "digest"))
    await settle(worker, hold, 10, 10, 1)
    async with Redis.from_url(redis_url) as redis:
        keys = [key async for key in redis.scan_iter()]
        assert len(keys) >= 10
        for key in keys:
            assert key.startswith(b"{wb}:")
            assert await redis.pttl(key) > 0, key


async def test_a_window_outlives_its_last_charge_also_where_a_refusal_moved_it(
    worker: Reservations, redis_url: str
) -> None:
    """A refused call moves the window on; what is admitted in the same bucket must not vanish with an older charge."""
    world = World(limits=(limit_of(Metric.TOTAL_TOKENS, 10, window=Rolling(2000)),))
    await world.reserve(worker, 3, 0)
    await asyncio.sleep(1.5)
    with pytest.raises(LimitExceeded):
        await world.reserve(worker, 11, 0)
    await world.reserve(worker, 1, 0)
    async with Redis.from_url(redis_url) as client:
        (key,) = [each async for each in client.scan_iter(match="*:r:*")]
        assert await client.pttl(key) > 61 * 2000 // 60


async def test_an_admission_leaves_no_cycle_behind_for_the_collector(worker: Reservations) -> None:
    world = World(limits=(limit_of(Metric.TOTAL_TOKENS, 1000),))
    await settle(worker, await world.reserve(worker, 10, 10), 5, 5)

    def left() -> int:
        return sum(type(each) is Hold for each in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = left()
        for _ in range(5):
            await settle(worker, await world.reserve(worker, 10, 10), 5, 5)
        assert left() <= before
    finally:
        gc.enable()
