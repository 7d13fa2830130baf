"""Weeks are dropped only behind a closing record, and what they added to the sums can be verified for ever."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.spool.quarantine import FOLDER
from gateway.spool.replay import replay
from gateway.store import audit, audit_check, database
from gateway.store.closing import close_weeks
from tests.verify.conftest import World

KEY = b"k" * 32
DAY_MS = 86_400_000
KEEP = timedelta(days=35)


@pytest.fixture
async def pool(world: World) -> AsyncIterator[AsyncEngine]:
    made = database.engine(world.url, size=2, statement_seconds=60)
    yield made
    await made.dispose()


def monday(weeks_ago: int) -> date:
    """Monday of a week that long ago."""
    today = datetime.now(UTC).date()
    return today - timedelta(days=today.weekday(), weeks=weeks_ago)


def ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)


async def counted(world: World) -> list[list[asyncpg.Record]]:
    return [
        await world.connection.fetch(f"SELECT * FROM gateway.{table} ORDER BY 1, 2, 3")
        for table in ("usage_hour", "usage_day", "balances")
    ]


async def test_a_week_is_closed_into_the_audit_and_dropped_and_all_sums_stay_verifiable(
    world: World, pool: AsyncEngine
) -> None:
    old, older = monday(9), monday(10)
    # At both sides of the edge between the two, inside of each, and now.
    for at in (ms(older), ms(old) - 1, ms(old), ms(old) + 3 * DAY_MS, None):
        world.request(at_ms=at)
    await world.drained()
    before = await counted(world)
    assert await close_weeks(pool, KEY, KEEP) == [older.isoformat(), old.isoformat()]
    assert await close_weeks(pool, KEY, KEEP) == []
    assert await world.connection.fetchval("SELECT count(*) FROM gateway.requests") == 1
    assert await world.connection.fetchval("SELECT count(*) FROM gateway.attempts") == 1
    for parent in ("requests", "attempts"):
        name = f"gateway.{parent}_{older:%Y%m%d}"
        assert await world.connection.fetchval("SELECT to_regclass($1)", name) is None
    assert await counted(world) == before
    assert await world.wrong() == {}
    assert (await world.checks())["closings"].looked_at == 2
    record = await world.connection.fetchval(
        "SELECT after FROM gateway.audit_entries JOIN gateway.audit_contents USING (number) WHERE object_id = $1",
        old.isoformat(),
    )
    assert record is not None
    assert (record["requests"], record["attempts"], record["cost_nano_usd"]) == (2, 2, 414)
    async with pool.connect() as connection:
        assert (await audit_check.verify(connection, KEY)).problem is None

    # The same records once more: their week takes nothing in any more, and nothing changes.
    world.spool.close()
    done = await replay(world.root, world.books)
    assert (done.requests, done.posted, done.refused) == (5, 0, 4)
    reasons = [json.loads(each.read_text())["reason"] for each in (world.root / FOLDER).glob("*.json")]
    assert len(reasons) == 4
    assert all("is closed" in each for each in reasons)
    assert await counted(world) == before
    assert (
        await world.connection.fetchval(
            "SELECT gateway.make_partitions($1, $1)", datetime.combine(old, datetime.min.time(), UTC)
        )
        == 0
    )

    planted = {
        "UPDATE gateway.closed_usage SET cost_nano_usd = cost_nano_usd + 1": ("closings", "digests"),
        "UPDATE gateway.ledger_closings SET requests = requests - 1": ("closings", "requests"),
        "DELETE FROM gateway.closed_balances": ("balances", "the ledger says"),
        "UPDATE gateway.closed_spools SET records = 0": ("spools", "record 8 from 1 to 8"),
    }
    for statement, (name, said) in planted.items():
        transaction = world.forger.transaction()
        await transaction.start()
        await world.forger.execute(statement)
        wrong = await world.wrong(world.forger)
        await transaction.rollback()
        assert any(said in text for text in wrong.get(name, ())), (statement, wrong)
    await world.forger.execute("DELETE FROM gateway.ledger_closings WHERE week = $1", old)
    assert any("is not among the dropped ones" in text for text in (await world.wrong())["closings"])


async def test_nothing_is_dropped_without_a_record_nor_too_early(world: World, pool: AsyncEngine) -> None:
    old = monday(9)
    world.request(at_ms=ms(old))
    await world.drained()
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError):
        await world.connection.execute("SELECT gateway.drop_week($1)", old)
    await world.connection.execute("SELECT gateway.close_week($1)", old)
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="no closing record in the audit"):
        await world.connection.execute("SELECT gateway.drop_week($1)", old)
    for week in (monday(1), old + timedelta(days=1)):
        with pytest.raises(asyncpg.InvalidParameterValueError):
            await world.connection.execute("SELECT gateway.close_week($1)", week)


async def test_a_week_that_a_spool_may_still_hold_is_left(world: World, pool: AsyncEngine) -> None:
    old = monday(9)
    begun, ended = world.records(at_ms=ms(old))
    world.spool.append(begun)
    world.request(at_ms=ms(old) + 1)
    await world.drained()
    with pytest.raises(Exception, match="may still hold requests"):
        await close_weeks(pool, KEY, KEEP)
    async with pool.connect() as connection:
        assert await audit.read_head(connection) == audit.Head(0, audit.GENESIS)
    world.spool.append(ended)
    world.count(begun)
    await world.drained()
    assert await close_weeks(pool, KEY, KEEP) == [old.isoformat()]
    assert await world.wrong() == {}
