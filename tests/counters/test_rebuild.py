"""A lost Redis is rebuilt from a real ledger: budgets and long windows as they were, minutes begin anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from gateway.counters.rebuild import LedgerAway, Question, Rebuild
from gateway.counters.reservations import Reservations
from gateway.ids import parse
from gateway.spool.books import Place, Position
from gateway.spool.joining import Entry, settled
from gateway.store.database import connect as connect_database
from gateway.store.ledger import PostgresBooks
from gateway.store.sums import PostgresSums
from policies.budgets import Budget
from policies.catalog import Price
from policies.limits import Metric, ScopeKind
from policies.windows import HOUR, MINUTE, Calendar, Rolling, Unit
from tests.counters.conftest import Connect, World, endpoint_of, limit_of
from tests.counters.test_degraded import until
from tests.spool.making import attempt, intent, settlement

_HOUR_MS = 3_600_000


@pytest.fixture
async def books(database_url: str, owner_url: str) -> AsyncIterator[PostgresBooks]:
    """An empty ledger."""
    database = await connect_database(owner_url, application_name="test")
    await database.execute(
        "TRUNCATE gateway.requests, gateway.attempts, gateway.usage_hour, gateway.usage_day, gateway.spool_positions"
    )
    await database.close()
    made = PostgresBooks(database_url, host="here")
    await made.make_partitions()
    yield made
    await made.close()


async def post(books: PostgresBooks, *usages: dict[str, Any]) -> None:
    """Post requests that ended: when, whose and how much."""
    postings = []
    for usage in usages:
        at = usage.pop("at")
        ended = usage.pop("ended", at + 100)
        used = {name: usage.pop(name) for name in ("fresh_input", "output", "cost_nano_usd") if name in usage}
        begun = intent(admitted_at_ms=at, **usage)
        end = settlement(begun, attempt(begun, **used), ended_at_ms=ended)
        postings.append(settled(Entry(begun, Place(0, 0)), end, uuid4().bytes))
    assert len(await books.post(postings, [])) == len(postings)


async def ask(url: str, question: Question) -> list[tuple[str, int, int]]:
    async with PostgresSums(url).view() as view:
        return sorted(each[:3] for each in await view.ask(question))


async def test_sums_take_whole_hours_from_the_roll_up_and_the_edges_from_the_rows(
    books: PostgresBooks, database_url: str
) -> None:
    hour = 500_000 * _HOUR_MS
    since = hour + 1_800_000
    base = {"principal_id": "u1", "endpoint_id": "e1", "fresh_input": 1, "output": 0, "cost_nano_usd": 1}
    await post(
        books,
        base | {"at": since - 1},
        base | {"at": since, "cost_nano_usd": 10},
        base | {"at": hour + _HOUR_MS, "cost_nano_usd": 100},
        base | {"at": hour + 2 * _HOUR_MS, "cost_nano_usd": 1000, "principal_id": "u2"},
        base
        | {"at": hour + 2 * _HOUR_MS + 1, "cost_nano_usd": 10_000, "endpoint_id": "e2", "group_id": "g1"},
    )
    money = Question(ScopeKind.USER_DEFAULT, Metric.MONEY, since)
    assert await ask(database_url, money) == [("u1", 0, 10_110), ("u2", 0, 1000)]
    assert await ask(database_url, replace(money, endpoint_id="e1")) == [("u1", 0, 110), ("u2", 0, 1000)]
    assert await ask(database_url, replace(money, subject_id="u2")) == [("u2", 0, 1000)]
    assert await ask(database_url, replace(money, scope=ScopeKind.DEPLOYMENT)) == [("", 0, 11_110)]
    assert await ask(database_url, replace(money, scope=ScopeKind.GROUP_DEFAULT)) == [("g1", 0, 10_000)]
    assert await ask(database_url, replace(money, metric=Metric.REQUESTS)) == [("u1", 0, 3), ("u2", 0, 1)]
    tokens = Question(ScopeKind.ENDPOINT, Metric.INPUT_TOKENS, since, bucket_of=_HOUR_MS)
    assert await ask(database_url, tokens) == [
        ("e1", 500_000 * 60 + 30, 1),
        ("e1", 500_001 * 60, 1),
        ("e1", 500_002 * 60, 1),
        ("e2", 500_002 * 60, 1),
    ]


async def test_budgets_and_hours_come_back_as_they_were_and_minutes_begin_anew(
    books: PostgresBooks, database_url: str, redis_url: str, connect: Connect
) -> None:
    limits = (limit_of(Metric.INPUT_TOKENS, 1000, MINUTE), limit_of(Metric.INPUT_TOKENS, 1000, HOUR))
    budgets = (
        Budget("mine", ScopeKind.USER_DEFAULT, Calendar(Unit.MONTH, "Asia/Kolkata"), 10_000),
        Budget("all", ScopeKind.DEPLOYMENT, Calendar(Unit.ONCE), 1_000_000),
    )
    world = World(limits=limits, budgets=budgets, endpoint=endpoint_of(Price("p", input=1_000_000)))
    rebuild = Rebuild(redis_url, PostgresSums(database_url), lambda: world.snapshot)
    workers = [await connect(opener=rebuild) for _ in range(2)]
    assert len({worker.link.epoch for worker in workers}) == 1
    holds = [await world.reserve(workers[number % 2], 100, 0) for number in range(4)]
    usages: list[dict[str, Any]] = []
    for number, hold in enumerate(holds[:3]):
        worker = workers[number % 2]
        worker.settle(hold, prompt_tokens=90, completion_tokens=0, cost_nano_usd=90)
        usages.append(
            {
                "at": hold.admitted_at_ms,
                "request_id": parse(hold.request_id),
                "principal_id": "u-alice",
                "endpoint_id": "ep-chat",
                "fresh_input": 90,
                "output": 0,
                "cost_nano_usd": 90,
                "ended": hold.admitted_at_ms,
            }
        )
    await post(books, *usages)
    for worker in workers:
        assert await worker._outbox.drained(5)
    before = (await world.reserve(workers[0], 0, 0)).parts[1]
    assert before == (1000 - 370, 1000 - 370, 1_000_000 - 370, 10_000 - 370)
    async with Redis.from_url(redis_url) as redis:
        await redis.flushall()
    for worker in workers:
        await world.reserve(worker, 0, 0)
    await until(lambda: all(worker.link.usable for worker in workers), 20)
    await until(lambda: not any(worker.unsettled for worker in workers))
    assert len({worker.link.epoch for worker in workers}) == 1
    after = (await world.reserve(workers[1], 0, 0)).parts[1]
    # The fourth still runs: its money is held, its tokens count when it ends.
    assert after == (1000, 1000 - 270, 1_000_000 - 370, 10_000 - 370)
    workers[1].settle(holds[3], prompt_tokens=80, completion_tokens=0, cost_nano_usd=80)
    assert await workers[1]._outbox.drained(5)
    assert (await world.reserve(workers[0], 0, 0)).parts[1] == (920, 650, 1_000_000 - 350, 10_000 - 350)


async def test_without_the_ledger_nothing_is_opened_and_limits_follow_their_modes(
    redis_url: str, connect: Connect, tmp_path: Any
) -> None:
    world = World(limits=(limit_of(Metric.REQUESTS, 10, Rolling(2000)),))
    ledger = PostgresSums(f"postgresql://nobody@/none?host={tmp_path}")
    worker = await connect(opener=Rebuild(redis_url, ledger, lambda: world.snapshot), wait_seconds=0.2)
    assert worker.standing.reason == "the counters are being rebuilt"
    assert (await world.reserve(worker)).degraded == "share"
    with pytest.raises(LedgerAway):
        async with ledger.alone():
            pass


async def test_rebuilding_waits_for_the_spools_that_are_behind(
    books: PostgresBooks, database_url: str, redis_url: str, connect: Connect
) -> None:
    spool = uuid4()
    await books.post([], [Position(spool, Place(0, 0), 1_000)])
    snapshot: Callable[[], Any] = lambda: World().snapshot  # noqa: E731
    rebuild = Rebuild(redis_url, PostgresSums(database_url), snapshot)
    joining = asyncio.ensure_future(connect(opener=rebuild, wait_seconds=20))
    await asyncio.sleep(0.5)
    assert not joining.done()
    await books.post([], [Position(spool, Place(0, 0), 9_999_999_999_999)])
    worker: Reservations = await joining
    assert worker.standing.usable
