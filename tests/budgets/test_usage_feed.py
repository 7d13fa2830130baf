"""Every settled request is queued once for a webhook that wants to know of it, and the queue of a slow one is bounded."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from itertools import chain
from typing import Any

import asyncpg
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.events import usage
from gateway.events.sender import WebhookSender, seal_subject
from gateway.events.signature import HEADER, verifies
from gateway.events.usage import SETTLED, UsageFeed
from gateway.events.waiting import look
from gateway.security.sealing import Sealing
from gateway.spool.books import Place, Posting
from gateway.spool.joining import Entry, settled
from gateway.store.changes import Actor, Configuration
from gateway.store.ledger import PostgresBooks
from gateway.store.posting import post_rows
from gateway.store.tables.credits import credits
from gateway.store.tables.events import usage_feeds, webhook_deliveries, webhooks
from tests.budgets.conftest import Receiver, Spending
from tests.spool.making import intent, settlement

SEALING = Sealing({1: b"k" * 32})
SECRET = b"0123456789abcdef0123456789abcdef"


@pytest.fixture
async def hook(engine: AsyncEngine, configuration: Configuration, root: Actor, receiver: Receiver) -> str:
    """A webhook that wants settled requests, and began to listen just now."""
    async with configuration.change(root) as change:
        for row in await change.rows(webhooks):
            await change.remove(webhooks, "webhook", row)
        made = change.new_id()
        await change.add(
            webhooks,
            "webhook",
            {
                "id": made, "name": f"hook-{made}", "url": receiver.url, "events": [SETTLED],
                "secret_sealed": SEALING.seal(SECRET, seal_subject(made)),
            },
        )  # fmt: skip
    await UsageFeed(engine).turn()
    return made


async def told(engine: AsyncEngine, hook_id: str) -> list[list[dict[str, Any]]]:
    query = (
        select(webhook_deliveries.c.body)
        .where(webhook_deliveries.c.webhook_id == hook_id)
        .order_by(webhook_deliveries.c.id)
    )
    async with engine.connect() as connection:
        return [json.loads(row[0])["data"]["requests"] for row in await connection.execute(query)]


async def until_told(engine: AsyncEngine, hook_id: str, wanted: int) -> list[list[dict[str, Any]]]:
    """Turn until so many requests are queued: what is just posted is told a second later."""
    feed, deadline = UsageFeed(engine), time.monotonic() + 30
    while time.monotonic() < deadline:
        await feed.turn()
        found = await told(engine, hook_id)
        if sum(map(len, found)) >= wanted:
            return found
    raise AssertionError(f"{sum(map(len, await told(engine, hook_id)))} of {wanted} requests were queued")


async def test_each_settled_request_is_told_once_signed_and_with_exact_money(
    engine: AsyncEngine, hook: str, spend: Spending, receiver: Receiver
) -> None:
    await spend("feed_a", 1_000_000_001, tags={"team": "search"})
    await spend("feed_a", 7)
    found = list(chain.from_iterable(await until_told(engine, hook, 2)))
    assert [(each["cost_nano_usd"], each["cost_usd"]) for each in found] == [
        (1_000_000_001, "1.000000001"),
        (7, "0.000000007"),
    ]
    assert found[0]["principal_id"] == "feed_a" and found[0]["tags"] == {"team": "search"}
    assert not {"prompt", "messages", "answer", "charges"} & found[0].keys()
    assert await UsageFeed(engine).turn() == 0
    sender = WebhookSender(engine, SEALING, listed={"127.0.0.1"})
    while await sender.turn():
        pass
    bodies = [(headers, body) for _, headers, body in receiver.got if json.loads(body)["type"] == SETTLED]
    assert sum(len(json.loads(body)["data"]["requests"]) for _, body in bodies) == 2
    assert all(verifies(SECRET, body, headers[HEADER], int(time.time())) for headers, body in bodies)
    assert await UsageFeed(engine).counts() >= (2, 0)


async def test_one_question_tells_what_waits(
    engine: AsyncEngine,
    configuration: Configuration,
    root: Actor,
    hook: str,
    spend: Spending,
    receiver: Receiver,
    database_url: str,
) -> None:
    books = PostgresBooks(database_url, host="here")
    sender = WebhookSender(engine, SEALING, listed={"127.0.0.1"})
    while await sender.turn():
        pass
    found = await look(books)
    assert (found.listened, found.due) == (True, False)
    await spend("feed_w", 5)
    await until_told(engine, hook, 1)
    assert (await look(books)).due
    while await sender.turn():
        pass
    assert not (await look(books)).due
    async with configuration.change(root) as change:
        for row in await change.rows(webhooks):
            await change.remove(webhooks, "webhook", row)
    async with engine.connect() as connection:
        known = (await connection.execute(select(credits.c.number).limit(1))).first()
    found = await look(books)
    assert (found.listened, found.credited) == (False, known is not None)
    await books.close()


async def test_many_are_told_in_pages_none_twice_even_of_one_posting(
    engine: AsyncEngine, hook: str, spend: Spending, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "AT_ONCE", 2)
    connection = await asyncpg.connect(database_url)
    async with connection.transaction():
        # All of one transaction have the same time in the ledger.
        await post_rows(connection, [one(number) for number in range(5)])
    await connection.close()
    pages = await until_told(engine, hook, 5)
    assert [len(page) for page in pages] == [2, 2, 1]
    assert len({each["request_id"] for page in pages for each in page}) == 5


async def test_what_commits_late_is_told_all_the_same(
    engine: AsyncEngine, hook: str, spend: Spending, database_url: str
) -> None:
    late = await asyncpg.connect(database_url)
    await late.execute("BEGIN")
    await post_rows(late, [one(1)])
    await spend("feed_after", 8)
    feed = UsageFeed(engine)
    for _ in range(3):
        assert await feed.turn() == 0, "something older may still come"
    await late.execute("COMMIT")
    await late.close()
    found = list(chain.from_iterable(await until_told(engine, hook, 2)))
    assert sorted(each["cost_nano_usd"] for each in found) == [8, 207]


async def test_a_slow_webhook_is_waited_for_and_one_that_takes_nothing_loses_the_oldest(
    engine: AsyncEngine, hook: str, spend: Spending, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "AT_ONCE", 1)
    monkeypatch.setattr(usage, "WAITING_AT_MOST", 2)
    for amount in (1, 2, 3, 4):
        await spend("feed_slow", amount)
    assert sum(map(len, await until_told(engine, hook, 2))) == 2
    feed = UsageFeed(engine)
    before = await feed.counts()
    for _ in range(3):
        assert await feed.turn() == 0
    assert await feed.counts() == before, "nothing is dropped for less than a day"
    monkeypatch.setattr(usage, "KEPT", timedelta(0))
    deadline = time.monotonic() + 30
    while (await feed.counts())[1] < before[1] + 2 and time.monotonic() < deadline:
        await feed.turn()
    assert await feed.counts() == (before[0], before[1] + 2)
    async with engine.begin() as connection:
        await connection.execute(webhook_deliveries.update().values(next_at=None))
    await spend("feed_slow", 5)
    found = list(chain.from_iterable(await until_told(engine, hook, 3)))
    assert [each["cost_nano_usd"] for each in found] == [1, 2, 5]


async def test_who_does_not_want_to_know_has_no_place_in_the_ledger(
    engine: AsyncEngine, configuration: Configuration, root: Actor, hook: str, spend: Spending
) -> None:
    async with configuration.change(root) as change:
        await change.revise(
            webhooks, "webhook", await change.current(webhooks, hook, "webhook"), events=["budget.threshold"]
        )
        other = await change.add(
            webhooks, "webhook", {"name": "deaf", "url": "https://h.example/x", "secret_sealed": b"x"}
        )
    await spend("feed_deaf", 9)
    for _ in range(3):
        assert await UsageFeed(engine).turn() == 0
    async with engine.connect() as connection:
        places = await connection.execute(select(usage_feeds.c.webhook_id))
        assert other["id"] not in {row[0] for row in places}
    assert await told(engine, hook) == []


def one(number: int) -> Posting:
    begun = intent(principal_id=f"feed_{number}")
    return settled(Entry(begun, Place(0, 0)), settlement(begun), b"w" * 16)
