"""A budget made in the middle of its period begins with what was spent in it, once."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.counters.connection import RedisAway
from gateway.counters.earlier import EarlierSpend
from gateway.counters.levels import CounterLevels
from gateway.counters.rebuild import Sum, counter_of
from gateway.events.opening import AGAIN_SECONDS, Openings
from gateway.spool.records import Charge
from policies.budgets import Budget
from policies.limits import Draw, Metric, ScopeKind
from policies.windows import Calendar, Unit, edges
from tests.budgets.conftest import Spending, budget_of

NOW = time.time_ns() // 1_000_000
EPOCH = "{wb}:epoch"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        await client.set(EPOCH, "run.1")
        yield client


@pytest.fixture
async def counters(redis_url: str) -> AsyncIterator[EarlierSpend]:
    made = EarlierSpend(redis_url)
    yield made
    await made.close()


async def used(redis_url: str, budget: Budget, subject: str) -> int:
    levels = CounterLevels(redis_url)
    draw = Draw(
        budget.id, budget.scope, subject, "", "", Metric.MONEY, budget.period, budget.nano_usd, budget.mode
    )
    found = await levels.read([draw])
    await levels.close()
    assert found is not None
    return found[0].used


async def test_what_was_spent_before_is_counted_once_and_late_enders_are_added(
    engine: AsyncEngine, spend: Spending, counters: EarlierSpend, redis: Redis, redis_url: str
) -> None:
    budget = budget_of(10_000, ScopeKind.USER, subject_id="op_a", period=Calendar(Unit.ONCE))
    await spend("op_a", 700)
    await spend("op_other", 50)
    present: list[Budget] = []
    clock = [NOW]
    openings = Openings(engine, counters, lambda: present, now_ms=lambda: clock[0])
    assert await openings.turn() == 0
    present.append(budget)
    assert await openings.turn() == 700
    # From now on admissions charge the counter themselves.
    key = f"{{wb}}:p:{budget.id}:op_a:0"
    await redis.hincrby(key, "t", 100)
    charge = Charge(budget.id, "op_a", "money", key, "p", 0, 100, 0)
    await spend("op_a", 100, charges=[charge])
    # One that was admitted before the budget ends now.
    await spend("op_a", 30)
    assert await openings.turn() == 0, "not before its time"
    total = 0
    for seconds in AGAIN_SECONDS:
        clock[0] = NOW + round(seconds * 1000)
        total += await openings.turn()
    assert total == 30
    assert await used(redis_url, budget, "op_a") == 830
    # A drainer that starts anew finds nothing to add.
    assert await counters.add(b"run.1", budget, NOW, [("op_a", 730)]) == 0


async def test_a_default_takes_over_with_what_was_spent_under_a_budget_that_is_gone(
    engine: AsyncEngine, spend: Spending, counters: EarlierSpend, redis: Redis, redis_url: str
) -> None:
    own = budget_of(10_000, ScopeKind.USER, subject_id="op_b")
    default = budget_of(10_000, ScopeKind.USER_DEFAULT)
    await spend("op_b", 400, charges=[Charge(own.id, "op_b", "money", "k", "p", 0, 400, 0)])
    present = [own, default]
    openings = Openings(engine, counters, lambda: present, now_ms=lambda: NOW)
    await openings.turn()
    present.remove(own)
    await openings.turn()
    assert await used(redis_url, default, "op_b") == 400


async def test_after_a_rebuild_only_what_has_ended_since_is_added(
    counters: EarlierSpend, redis: Redis, redis_url: str
) -> None:
    budget = budget_of(10_000, ScopeKind.USER, subject_id="op_d", period=Calendar(Unit.ONCE))
    # The sums had 900, of which 300 came from requests that were admitted before the budget was there.
    fields = counter_of(Sum("op_d", 0, 900), 300)
    await redis.hset(f"{{wb}}:p:{budget.id}:op_d:0", mapping=dict(fields))
    assert await counters.add(b"run.1", budget, NOW, [("op_d", 340)]) == 40
    assert await counters.add(b"run.1", budget, NOW, [("op_d", 340)]) == 0
    assert await used(redis_url, budget, "op_d") == 940


async def test_nothing_is_added_while_the_counters_are_rebuilt(
    engine: AsyncEngine, spend: Spending, counters: EarlierSpend, redis: Redis
) -> None:
    budget = budget_of(10_000, ScopeKind.USER, subject_id="op_c")
    await spend("op_c", 5)
    with pytest.raises(RedisAway):
        await counters.add(b"run.0", budget, NOW, [("op_c", 5)])
    await redis.delete(EPOCH)
    present: list[Budget] = []
    openings = Openings(engine, counters, lambda: present, now_ms=lambda: NOW)
    await openings.turn()
    present.append(budget)
    assert await openings.turn() == 0
    await redis.set(EPOCH, "run.2")
    assert await openings.turn() == 5, "it was not forgotten meanwhile"
    start = edges(budget.period, NOW)[0]
    assert await redis.pttl(f"{{wb}}:p:{budget.id}:op_c:{start}") > 0
