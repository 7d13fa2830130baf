"""Redis frozen, stopped or wiped: each limit's mode decides, loudly, and what was counted meanwhile is handed in."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from redis.asyncio import Redis

from gateway.counters.link import FAILURES_TO_OPEN
from gateway.counters.reservations import Reservations
from gateway.embedded.redis import EmbeddedRedis
from gateway.errors import GatewayError, LimitExceeded, Unavailable
from gateway.http.answering import apart
from policies.budgets import Budget
from policies.catalog import Price
from policies.limits import Metric, Mode, ScopeKind
from policies.windows import HOUR, MINUTE, Calendar, Rolling, Unit
from tests.counters.conftest import Connect, World, endpoint_of, limit_of, settle

if TYPE_CHECKING:
    from gateway.counters.hold import Hold

pytestmark = pytest.mark.alone
_TIMEOUT = 0.020


async def until(claim: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until a claim holds."""
    async with asyncio.timeout(seconds):
        while not claim():
            await asyncio.sleep(0.01)


@pytest.fixture
async def own_redis(stores_home: Path) -> AsyncIterator[EmbeddedRedis]:
    """A server that this test may stop."""
    async with EmbeddedRedis(stores_home / "own") as server:
        async with Redis.from_url(server.url()) as redis:
            await redis.flushall()
        yield server


class frozen:
    """`with frozen(server):` Redis does nothing inside, and goes on afterwards."""

    def __init__(self, server: EmbeddedRedis) -> None:
        self._server = server

    def __enter__(self) -> None:
        self._server.child.send(signal.SIGSTOP)

    def __exit__(self, *_: object) -> None:
        self._server.child.send(signal.SIGCONT)


async def _give_up(worker: Reservations, world: World) -> list[Hold | BaseException]:
    """Calls until the breaker is open."""
    outcomes: list[Hold | BaseException] = []
    for _ in range(20):
        if not worker.link.usable:
            break
        outcomes += await asyncio.gather(world.reserve(worker, 0, 1), return_exceptions=True)
    return outcomes


async def test_a_frozen_redis_costs_a_few_time_outs_then_nothing(
    connect: Connect, redis_server: EmbeddedRedis
) -> None:
    worker = await connect(timeout_seconds=_TIMEOUT)
    world = World(limits=(limit_of(Metric.REQUESTS, 1000),))
    await world.reserve(worker, 0, 1)
    with frozen(redis_server):
        begun = time.monotonic()
        outcomes = await _give_up(worker, world)
        took = time.monotonic() - begun
        assert 1 <= len(outcomes) <= 5
        assert all(getattr(each, "degraded", None) == "share" for each in outcomes), outcomes
        assert took < 1.0
        assert worker.standing.breaker_open
        assert worker.standing.reason == "Redis does not answer in time"
        begun = time.monotonic()
        hold = await world.reserve(worker, 0, 1)
        assert time.monotonic() - begun < 0.02
        assert dict(apart(hold.fields))[b"x-weighbridge-degraded"] == b"share"
        assert hold.sequence == 0
        assert hold.charges == []
    begun = time.monotonic()
    await until(lambda: worker.link.usable, 2.0)
    assert time.monotonic() - begun < 2.0
    await until(lambda: not worker.unsettled)
    # The grants that came late were undone, the admissions decided here were reported: one each, and the first.
    after = await world.reserve(worker, 0, 1)
    assert after.degraded is None
    assert after.parts[1] == (1000 - 1 - worker.degraded_admissions - 1,)


async def test_in_share_a_worker_admits_its_part_and_in_open_everything(
    connect: Connect, redis_server: EmbeddedRedis
) -> None:
    one, two = await connect(timeout_seconds=_TIMEOUT), await connect(timeout_seconds=_TIMEOUT)
    shared = World(limits=(limit_of(Metric.TOTAL_TOKENS, 1000, mode=Mode.SHARE),))
    opened = World(limits=(limit_of(Metric.TOTAL_TOKENS, 10, mode=Mode.OPEN),))
    strict = World(limits=(limit_of(Metric.TOTAL_TOKENS, 1000, mode=Mode.STRICT, name="hard"),))
    await until(lambda: one.link.live_workers == 2 and two.link.live_workers == 2)
    with frozen(redis_server):
        for worker in (one, two):
            outcomes = await asyncio.gather(
                *(shared.reserve(worker, 0, 100) for _ in range(12)), return_exceptions=True
            )
            assert sum(not isinstance(each, BaseException) for each in outcomes) == 5
            refused = [each for each in outcomes if isinstance(each, LimitExceeded)]
            assert len(refused) == 7
            assert all(each.retry_after_seconds for each in refused)
            hold = await opened.reserve(worker, 0, 100)
            assert hold.degraded == "open"
            with pytest.raises(Unavailable, match="'hard' is strict"):
                await strict.reserve(worker, 0, 100)
            with pytest.raises(Unavailable, match="Idempotency"):
                await shared.reserve(worker, 0, 0, idempotency=("k", "d"))
    await until(lambda: one.link.usable and two.link.usable)
    await until(lambda: not one.unsettled and not two.unsettled)
    with pytest.raises(LimitExceeded):
        await shared.reserve(one, 0, 1)
    # Nothing was charged for what was refused, nor left behind by the calls that timed out.
    assert (await strict.reserve(one, 0, 900)).parts[1] == (100,)


async def test_settling_while_redis_is_away_frees_the_share_and_reaches_redis_later(
    connect: Connect, redis_server: EmbeddedRedis
) -> None:
    worker = await connect(timeout_seconds=_TIMEOUT)
    world = World(limits=(limit_of(Metric.TOTAL_TOKENS, 1000), limit_of(Metric.CONCURRENT_REQUESTS, 3)))
    normal = await world.reserve(worker, 0, 300)
    with frozen(redis_server):
        await asyncio.gather(*(World().reserve(worker) for _ in range(5)))
        assert not worker.link.usable
        holds = [await world.reserve(worker, 0, 300) for _ in range(3)]
        with pytest.raises(LimitExceeded):
            await world.reserve(worker, 0, 300)
        worker.settle(normal, prompt_tokens=0, completion_tokens=200, cost_nano_usd=0)
        for hold in holds[:2]:
            worker.settle(hold, prompt_tokens=0, completion_tokens=50, cost_nano_usd=0)
        last = await world.reserve(worker, 0, 600)
        assert await worker.top_up(last, 50) == 0 or last.granted_output <= 650
    await until(lambda: worker.link.usable)
    await until(lambda: not worker.unsettled)
    for hold, used in ((holds[2], 250), (last, 400)):
        await settle(worker, hold, 0, used)
    # 200 + 50 + 50 + 250 + 400 were used and are counted in Redis, none twice.
    assert (await world.reserve(worker, 0, 0)).parts[1] == (50, 2)


async def test_a_stopped_redis_refuses_nothing_in_share_and_its_return_begins_a_new_epoch(
    connect: Connect, own_redis: EmbeddedRedis
) -> None:
    worker = await connect(url=own_redis.url(), timeout_seconds=_TIMEOUT)
    world = World(
        limits=(limit_of(Metric.REQUESTS, 50), limit_of(Metric.CONCURRENT_REQUESTS, 10)),
        budgets=(Budget("b", ScopeKind.DEPLOYMENT, Calendar(Unit.MONTH), 10_000),),
        endpoint=endpoint_of(Price("p", output=1_000_000)),
    )
    before = await world.reserve(worker, 0, 500)
    epoch = worker.standing.epoch
    await own_redis.stop()
    await until(lambda: not worker.link.usable)
    assert worker.standing.reason == "no connection to Redis"
    during = await world.reserve(worker, 0, 100)
    assert during.degraded == "share"
    worker.settle(during, prompt_tokens=0, completion_tokens=60, cost_nano_usd=60)
    await own_redis.start()
    await until(lambda: worker.link.usable)
    await until(lambda: not worker.unsettled)
    assert worker.standing.epoch != epoch
    # The hold on the budget and the running requests were carried over; the minute began anew, once. What ended
    # meanwhile is in no sums that the epoch began with: its worker brings it.
    after = await world.reserve(worker, 0, 100)
    assert after.parts[1] == (50 - 1 - 1, 10 - 1 - 1, 10_000 - 500 - 60 - 100)
    await settle(worker, before, 0, 450, 450)
    assert (await world.reserve(worker, 0, 0)).parts[1] == (47, 8, 10_000 - 450 - 60 - 100)
    assert after.sequence > before.sequence


async def test_a_wiped_redis_is_noticed_by_the_next_call_and_rebuilt(
    connect: Connect, redis_url: str
) -> None:
    one, two = await connect(), await connect()
    world = World(
        limits=(limit_of(Metric.CONCURRENT_REQUESTS, 10),),
        budgets=(Budget("b", ScopeKind.DEPLOYMENT, Calendar(Unit.MONTH), 1_000),),
        endpoint=endpoint_of(Price("p", output=1_000_000)),
    )
    holds = [await world.reserve(one, 0, 100), await world.reserve(two, 0, 200)]
    async with Redis.from_url(redis_url) as redis:
        await redis.flushall()
    hold = await world.reserve(one, 0, 50)
    assert hold.degraded == "share"
    assert one.standing.lost == 1
    await until(lambda: one.link.usable)
    await world.reserve(two, 0, 0)
    await until(lambda: two.link.usable and two.link.epoch == one.link.epoch)
    await until(lambda: not one.unsettled and not two.unsettled)
    after = await world.reserve(one, 0, 0)
    assert after.parts[1][1] == 1000 - 100 - 200 - 50
    for worker, each, used in ((one, holds[0], 10), (two, holds[1], 20), (one, hold, 30)):
        await settle(worker, each, 0, used, used)
    assert (await world.reserve(one, 0, 0)).parts[1][1] == 1000 - 60


async def test_an_end_that_meets_a_wiped_redis_is_counted_in_the_next_epoch(
    worker: Reservations, redis_url: str
) -> None:
    world = World(
        budgets=(Budget("b", ScopeKind.DEPLOYMENT, Calendar(Unit.MONTH), 1_000),),
        endpoint=endpoint_of(Price("p", output=1_000_000)),
    )
    hold = await world.reserve(worker, 0, 100)
    async with Redis.from_url(redis_url) as redis:
        await redis.flushall()
    worker.settle(hold, prompt_tokens=0, completion_tokens=30, cost_nano_usd=30)
    await until(lambda: worker.link.usable and worker.link.epoch != hold.epoch and not worker.unsettled)
    assert (await world.reserve(worker, 0, 0)).parts[1] == (970,)
    assert worker.held == 1


async def test_a_stream_that_began_before_redis_was_wiped_is_topped_up_in_the_next_epoch(
    worker: Reservations, redis_url: str
) -> None:
    world = World(
        budgets=(Budget("b", ScopeKind.DEPLOYMENT, Calendar(Unit.MONTH), 1_000),),
        endpoint=endpoint_of(Price("p", output=1_000_000)),
    )
    hold = await world.reserve(worker, 0, 100)
    assert await worker.top_up(hold, 50) == 50
    async with Redis.from_url(redis_url) as redis:
        await redis.flushall()
    await until(lambda: worker.link.usable and worker.link.epoch != hold.epoch)
    assert await worker.top_up(hold, 60) == 60
    assert worker.link.usable
    assert (worker.standing.lost, worker.degraded_admissions, hold.local) == (1, 0, [])
    assert (await world.reserve(worker, 0, 0)).parts[1] == (1000 - 210,)
    await settle(worker, hold, 0, 160, 160)
    assert (await world.reserve(worker, 0, 0)).parts[1] == (1000 - 160,)


async def test_a_worker_that_nobody_calls_notices_the_epoch_that_another_opened(
    worker: Reservations, redis_url: str
) -> None:
    link = worker.link
    another = link.new_epoch(link.connection.run_id)
    async with Redis.from_url(redis_url) as redis:
        await redis.set(link.keys.epoch, another)
    await until(lambda: link.usable and link.epoch == another)


async def test_failures_open_the_breaker_only_in_a_row(worker: Reservations) -> None:
    for _ in range(3):
        for _ in range(FAILURES_TO_OPEN - 1):
            worker.link.failed()
        await World().reserve(worker)
        assert worker.link.usable
    for _ in range(FAILURES_TO_OPEN):
        worker.link.failed()
    assert not worker.link.usable


async def test_a_key_that_was_claimed_too_late_for_its_caller_is_free_again(
    connect: Connect, redis_server: EmbeddedRedis
) -> None:
    worker = await connect(timeout_seconds=0.1)
    world = World(limits=(limit_of(Metric.REQUESTS, 10),))
    with frozen(redis_server), pytest.raises(Unavailable):
        await world.reserve(worker, 5, 5, idempotency=("key", "body"))
    worker.link.connection._timeout = 2.0
    await until(lambda: worker.link.usable and worker.late_grants == 1 and not worker.unsettled)
    assert (await world.reserve(worker, 5, 5, idempotency=("key", "body"))).parts[1] == (9,)


async def test_a_connection_that_breaks_under_a_reservation_leaves_no_charge_behind(
    connect: Connect, redis_server: EmbeddedRedis
) -> None:
    worker = await connect(timeout_seconds=1.0)
    world = World(limits=(limit_of(Metric.TOTAL_TOKENS, 1000, HOUR), limit_of(Metric.CONCURRENT_REQUESTS, 3)))
    with frozen(redis_server):
        asked = [world.reserve(worker, 0, 100) for _ in range(2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        worker.link.connection.drop()
        holds = await asyncio.gather(*asked)
        # One ends before Redis is back, the other after.
        worker.settle(holds[0], prompt_tokens=0, completion_tokens=0, cost_nano_usd=0)
    assert [hold.degraded for hold in holds] == ["share", "share"]
    await until(lambda: worker.link.usable)
    await until(lambda: not worker.unsettled)
    await settle(worker, holds[1], 0, 0)
    assert (await world.reserve(worker, 0, 0)).parts[1] == (1000, 2)


@pytest.mark.parametrize("executed", [True, False])
async def test_a_top_up_whose_answer_is_lost_leaves_no_charge_behind(
    connect: Connect, executed: bool
) -> None:
    worker = await connect()
    world = World(limits=(limit_of(Metric.TOTAL_TOKENS, 1000, HOUR),))
    hold = await world.reserve(worker, 0, 100)
    sent: list[bytes] = []
    connection = worker.link.connection
    if executed:
        # Redis gets the command, and the connection is gone before its answer is read.
        connection.data_received = lambda data: sent.append(data)  # pyright: ignore[reportAttributeAccessIssue]
    else:
        worker.link.connection._flush = lambda: None  # pyright: ignore[reportAttributeAccessIssue]
    topping = worker.top_up(hold, 200)
    if executed:
        await until(lambda: bool(sent))
        del connection.data_received
    else:
        del connection._flush
        connection._flushing = False
    connection.drop()
    assert await topping == 200  # decided here meanwhile
    await until(lambda: worker.link.usable)
    await until(lambda: not worker.unsettled)
    assert worker.late_grants == int(executed)
    await settle(worker, hold, 0, 150)
    assert (await world.reserve(worker, 0, 0)).parts[1] == (850,)


async def test_a_workers_clock_an_hour_off_changes_no_period_and_no_window(connect: Connect) -> None:
    ahead = await connect(clock=lambda: time.time() + 3600)
    behind = await connect(clock=lambda: time.time() - 3600)
    world = World(
        limits=(limit_of(Metric.REQUESTS, 10, MINUTE), limit_of(Metric.REQUESTS, 10, Calendar(Unit.DAY)))
    )
    for number, worker in enumerate((ahead, behind, ahead), 1):
        hold = await world.reserve(worker)
        assert hold.parts[1] == (10 - number, 10 - number)
        assert abs(hold.admitted_at_ms - time.time() * 1000) < 5000
        assert hold.charges[1].position == int(time.time()) // 86400 * 86_400_000


async def test_edges_that_are_out_of_date_are_made_anew(worker: Reservations) -> None:
    world = World(limits=(limit_of(Metric.REQUESTS, 10, Calendar(Unit.DAY)),))
    worker.link._offset_ms -= 5 * 86_400_000
    hold = await world.reserve(worker)
    assert hold.charges[0].position == int(time.time()) // 86400 * 86_400_000
    await settle(worker, hold, 1, 1)


async def test_without_redis_from_the_start_limits_follow_their_modes(
    tmp_path: Path, connect: Connect
) -> None:
    worker = await connect(url=f"unix://{tmp_path}/none.sock", wait_seconds=0.1)
    assert not worker.standing.usable
    world = World(limits=(limit_of(Metric.REQUESTS, 2, Rolling(1000)),))
    holds = [await world.reserve(worker) for _ in range(2)]
    with pytest.raises(GatewayError):
        await world.reserve(worker)
    for hold in holds:
        worker.settle(hold, prompt_tokens=0, completion_tokens=0, cost_nano_usd=0)
    await asyncio.sleep(1.1)
    assert (await world.reserve(worker)).degraded == "share"
