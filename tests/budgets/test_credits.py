"""Credits and charges as budgets see them: in the ledger's sums, in the counters at once, and after a rebuild."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.counters.earlier import EarlierSpend
from gateway.counters.rebuild import Question, counter_of
from gateway.errors import BadRequest, Conflict
from gateway.events.credits import CreditWatch
from gateway.events.thresholds import ThresholdWatch
from gateway.ids import text
from gateway.store.changes import Actor, Configuration
from gateway.store.credits import OfPrincipal, enter
from gateway.store.principals import create_principal
from gateway.store.spend import spent
from gateway.store.sums import PostgresSums
from policies.budgets import Budget
from policies.limits import Metric, ScopeKind
from policies.windows import Calendar, Unit, edges
from tests.budgets.conftest import CHAIN_KEY, Spending, budget_of
from tests.spool.making import id_at

NOW = time.time_ns() // 1_000_000
ONCE = Calendar(Unit.ONCE)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url) as client:
        await client.set("{wb}:epoch", "run.1")
        yield client


@pytest.fixture
async def counters(redis_url: str) -> AsyncIterator[EarlierSpend]:
    made = EarlierSpend(redis_url)
    yield made
    await made.close()


async def total(redis: Redis, key: str) -> int:
    found: bytes | None = await redis.hget(key, "t")  # pyright: ignore[reportGeneralTypeIssues, reportAssignmentType]
    return int(found or 0)


async def someone(configuration: Configuration, root: Actor, name: str) -> str:
    async with configuration.change(root) as change:
        return str((await create_principal(change, "user", {"name": name}))["id"])


async def in_ledger(engine: AsyncEngine, budget: Budget) -> dict[str, int]:
    async with engine.connect() as connection:
        return dict(await spent(connection, budget, edges(budget.period, NOW)))


async def test_a_request_is_credited_up_to_its_cost_wherever_it_counted(
    engine: AsyncEngine, configuration: Configuration, root: Actor, spend: Spending
) -> None:
    made = id_at(NOW)
    await spend("cr_a", 900, request_id=made, group_id="cr_g", key_id="cr_k")
    await spend("cr_a", 100, group_id="cr_g")
    budgets = [
        budget_of(10_000, ScopeKind.USER_DEFAULT, period=ONCE),
        budget_of(10_000, ScopeKind.GROUP, subject_id="cr_g", period=Calendar(Unit.MONTH)),
        budget_of(10_000, ScopeKind.KEY, subject_id="cr_k", period=Calendar(Unit.DAY, "Asia/Kolkata")),
    ]
    async with configuration.change(root, "a bad answer") as change:
        row = await enter(change, text(made), -400, "a bad answer")
    assert (row["principal_id"], row["group_id"], row["key_id"]) == ("cr_a", "cr_g", "cr_k")
    assert (row["nano_usd"], row["entered_by"]) == (-400, "tests")
    assert [(await in_ledger(engine, each)).get(of) for each, of in zip(budgets, ("cr_a", "cr_g", "cr_k"), strict=True)] == [600, 600, 500]  # fmt: skip
    async with configuration.change(root) as change:
        with pytest.raises(BadRequest, match="left after earlier"):
            await enter(change, text(made), -501, "too much")
    async with configuration.change(root) as change:
        await enter(change, text(made), -500, "all of it")
        await enter(change, text(made), 50, "not quite all")
    assert (await in_ledger(engine, budgets[0]))["cr_a"] == 150
    async with configuration.change(root) as change:
        with pytest.raises(Conflict, match="has no request"):
            await enter(change, text(id_at(NOW)), -1, "unknown")


async def test_counters_follow_once_whatever_is_repeated_and_may_fall_below_zero(
    engine: AsyncEngine,
    configuration: Configuration,
    root: Actor,
    counters: EarlierSpend,
    redis: Redis,
) -> None:
    who = await someone(configuration, root, "credited")
    budget = budget_of(10_000, ScopeKind.USER, subject_id=who, period=ONCE)
    key = f"{{wb}}:p:{budget.id}:{who}:0"
    await redis.hset(key, mapping={"t": 300, "w:w1": 300})
    watch = CreditWatch(engine, counters, lambda: [budget], now_ms=lambda: NOW)
    await watch.turn()

    async def give(nano_usd: int) -> int:
        async with configuration.change(root) as change:
            await enter(change, OfPrincipal(who), nano_usd, "an outage")
        assert await watch.turn()
        return await total(redis, key)

    assert await give(-100) == 200
    assert not await watch.turn(), "nothing new, nothing asked"
    assert await CreditWatch(engine, counters, lambda: [budget], now_ms=lambda: NOW).turn()
    assert await total(redis, key) == 200, "a drainer that starts anew takes nothing twice"
    # More than was spent is room beyond the amount; what is charged again is taken back.
    assert await give(-1_000) == -800
    assert await give(600) == -200
    assert (await in_ledger(engine, budget))[who] == -500


async def test_a_rebuild_brings_credits_back_and_they_are_not_taken_twice(
    engine: AsyncEngine,
    configuration: Configuration,
    root: Actor,
    spend: Spending,
    database_url: str,
    counters: EarlierSpend,
    redis: Redis,
) -> None:
    who = await someone(configuration, root, "rebuilt")
    await spend(who, 700)
    async with configuration.change(root) as change:
        await enter(change, OfPrincipal(who), -300, "an outage")
    question = Question(ScopeKind.USER_DEFAULT, Metric.MONEY, 0, who)
    async with PostgresSums(database_url).view() as sums:
        (found,) = await sums.ask(question)
    assert (found.subject, found.amount, found.credited) == (who, 400, -300)
    budget = budget_of(10_000, ScopeKind.USER, subject_id=who, period=ONCE)
    key = f"{{wb}}:p:{budget.id}:{who}:0"
    fields: Any = counter_of(found)
    await redis.hset(key, mapping=fields)
    await CreditWatch(engine, counters, lambda: [budget], now_ms=lambda: NOW).turn()
    assert await counters.add(b"run.1", budget, NOW, [(who, 700)]) == 0, "its requests are counted already"
    assert await total(redis, key) == 400
    tokens = await _tokens(database_url, question)
    assert tokens > 0, "tokens are as they were"


async def _tokens(database_url: str, question: Question) -> int:
    async with PostgresSums(database_url).view() as sums:
        (found,) = await sums.ask(replace(question, metric=Metric.TOTAL_TOKENS))
    assert found.credited == 0
    return found.amount


async def test_a_credit_of_another_period_is_not_of_this_one(
    engine: AsyncEngine, configuration: Configuration, root: Actor
) -> None:
    who = await someone(configuration, root, "earlier")
    long_ago = datetime(2020, 5, 3, 12, tzinfo=UTC)
    async with configuration.change(root) as change:
        await enter(change, OfPrincipal(who, at=long_ago), -300, "an old outage")
    month = budget_of(1, ScopeKind.USER, subject_id=who, period=Calendar(Unit.MONTH))
    assert await in_ledger(engine, month) == {}
    async with engine.connect() as connection:
        then = edges(month.period, int(long_ago.timestamp() * 1000))
        assert await spent(connection, month, then) == [(who, -300)]
    async with configuration.change(root) as change:
        with pytest.raises(BadRequest, match="future"):
            await enter(change, OfPrincipal(who, at=datetime(2100, 1, 1, tzinfo=UTC)), -1, "x")


async def test_a_threshold_that_a_credit_brought_out_of_reach_is_not_raised(
    engine: AsyncEngine, configuration: Configuration, root: Actor, spend: Spending
) -> None:
    who = await someone(configuration, root, "below")
    budget = budget_of(1_000, ScopeKind.USER, subject_id=who, period=ONCE, thresholds=(80,))
    async with configuration.change(root) as change:
        await enter(change, OfPrincipal(who), -300, "an outage")
    watch = ThresholdWatch(engine, lambda: [budget], chain_key=CHAIN_KEY, now_ms=lambda: NOW)
    await spend(who, 900)
    assert await watch.turn() == 0
    await spend(who, 250)
    assert await watch.turn() == 1
