"""A threshold that settled spend reaches is one event, one audit entry, and a signed message to whoever wants it."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.events import outbox
from gateway.events.post import PostFailed, post
from gateway.events.sender import WebhookSender, seal_subject
from gateway.events.signature import HEADER, signed, verifies
from gateway.events.thresholds import ThresholdWatch
from gateway.security.addresses import AddressRefused, read_address, refuse_private, resolved
from gateway.security.keys import Peppers
from gateway.security.sealing import Sealing
from gateway.store import audit_check
from gateway.store.api_keys import NewKey, create_key, rotate_key
from gateway.store.changes import Actor, Configuration
from gateway.store.principals import create_principal
from gateway.store.spend import spent
from gateway.store.tables.events import budget_events, webhook_deliveries, webhooks
from policies.budgets import Budget
from policies.limits import ScopeKind
from policies.windows import Calendar, Unit, edges
from tests.budgets.conftest import CHAIN_KEY, Receiver, Spending, budget_of

SEALING = Sealing({1: b"k" * 32})
SECRET = b"0123456789abcdef0123456789abcdef"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def watch_of(engine: AsyncEngine, *budgets: Budget, now: Any = now_ms) -> ThresholdWatch:
    return ThresholdWatch(engine, lambda: budgets, chain_key=CHAIN_KEY, now_ms=now)


async def raised(engine: AsyncEngine, budget: Budget) -> list[tuple[str, int]]:
    async with engine.connect() as connection:
        found = await connection.execute(
            select(budget_events.c.subject, budget_events.c.threshold_percent)
            .where(budget_events.c.budget_id == budget.id)
            .order_by(budget_events.c.subject, budget_events.c.threshold_percent)
        )
        return [tuple(row) for row in found]


async def entries(engine: AsyncEngine, budget: Budget) -> int:
    async with engine.connect() as connection:
        assert (await audit_check.verify(connection, CHAIN_KEY)).bad is None
        return await connection.scalar(
            text("SELECT count(*) FROM gateway.audit_entries WHERE object_id = :id"), {"id": budget.id}
        )


async def test_each_threshold_is_raised_once_for_each_subject(engine: AsyncEngine, spend: Spending) -> None:
    budget = budget_of(1000)
    watch = watch_of(engine, budget)
    await spend("ev_a", 499)
    await spend("ev_b", 1)
    assert await watch.turn() == 0
    await spend("ev_a", 1)
    assert await watch.turn() == 1
    await spend("ev_a", 600)
    assert [await watch.turn() for _ in range(3)] == [1, 0, 0]
    mine = [each for each in await raised(engine, budget) if each[0] in ("ev_a", "ev_b")]
    assert mine == [("ev_a", 50), ("ev_a", 100)]
    assert await entries(engine, budget) == len(await raised(engine, budget))


async def test_a_watch_that_starts_anew_raises_nothing_twice_and_two_at_once_agree(
    engine: AsyncEngine, spend: Spending
) -> None:
    budget = budget_of(1000, ScopeKind.USER, subject_id="ev_c", thresholds=(10, 20, 30, 100))
    await spend("ev_c", 5000)
    new = await asyncio.gather(*(watch_of(engine, budget).turn() for _ in range(5)))
    assert sum(new) == 4
    assert await watch_of(engine, budget).turn() == 0
    assert await entries(engine, budget) == 4


async def test_what_fails_before_it_is_on_record_is_raised_at_the_next_turn(
    engine: AsyncEngine, spend: Spending, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = budget_of(1000, ScopeKind.USER, subject_id="ev_d", thresholds=(100,))
    await spend("ev_d", 1000)
    watch = watch_of(engine, budget)

    async def fails(*_: object, **__: object) -> int:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(outbox.audit, "append", fails)
        with pytest.raises(RuntimeError):
            await watch.turn()
    assert await raised(engine, budget) == []
    assert await watch.turn() == 1
    assert await entries(engine, budget) == 1


async def test_a_stream_that_ends_after_midnight_counts_for_the_day_in_which_it_began(
    engine: AsyncEngine, spend: Spending
) -> None:
    day = Calendar(Unit.DAY, "Asia/Kolkata")
    budget = budget_of(1000, ScopeKind.USER, subject_id="ev_e", period=day, thresholds=(100,))
    start, _ = edges(day, now_ms())
    await spend("ev_e", 1000, at_ms=start - 1)
    assert await watch_of(engine, budget, now=lambda: start + 60_000).turn() == 1
    async with engine.connect() as connection:
        told = await connection.scalar(
            select(budget_events.c.period_start).where(budget_events.c.budget_id == budget.id)
        )
    assert told == datetime.fromtimestamp(edges(day, start - 1)[0] / 1000, UTC)


async def test_spend_is_cut_at_the_edges_of_periods_to_the_millisecond(
    engine: AsyncEngine, spend: Spending
) -> None:
    for zone in ("UTC", "Asia/Kolkata", "Asia/Kathmandu", "America/St_Johns"):
        day = Calendar(Unit.DAY, zone)
        subject = f"edge_{zone}"
        start, end = edges(day, now_ms() - 86_400_000)
        for at, amount in (
            (start - 1, 1),
            (start, 10),
            (start + 3_600_000, 100),
            (end - 1, 1000),
            (end, 10_000),
        ):
            await spend(subject, amount, at_ms=at)
        budget = budget_of(1, ScopeKind.USER, subject_id=subject, period=day)
        async with engine.connect() as connection:
            assert [each.nano_usd for each in await spent(connection, budget, (start, end))] == [1110], zone


async def test_keys_of_one_line_are_summed_as_the_first_of_it(
    engine: AsyncEngine, configuration: Configuration, root: Actor, spend: Spending
) -> None:
    peppers = Peppers({1: b"p" * 32})
    async with configuration.change(root) as change:
        user = await create_principal(change, "user", {"name": f"line-{uuid4()}"})
        first, _ = await create_key(change, peppers, NewKey(user["id"]))
    async with configuration.change(root) as change:
        second, _, _ = await rotate_key(change, peppers, first, timedelta(hours=1))
        apart, _ = await create_key(change, peppers, NewKey(user["id"]))
    for key, amount in ((first, 1), (second, 10), (apart, 100)):
        await spend(user["id"], amount, key_id=key["id"])
    each = budget_of(1, ScopeKind.KEY, period=Calendar(Unit.DAY))
    named = budget_of(1, ScopeKind.KEY, subject_id=first["id"], period=Calendar(Unit.DAY))
    period = edges(each.period, now_ms())
    async with engine.connect() as connection:
        found = {row.subject: row.nano_usd for row in await spent(connection, each, period)}
        assert (found[first["id"]], found[apart["id"]]) == (11, 100)
        assert second["id"] not in found
        assert [row.nano_usd for row in await spent(connection, named, period)] == [11]


async def hook(configuration: Configuration, root: Actor, url: str) -> str:
    async with configuration.change(root) as change:
        for row in await change.rows(webhooks):
            await change.remove(webhooks, "webhook", row)
        made = change.new_id()
        sealed = SEALING.seal(SECRET, seal_subject(made))
        await change.add(
            webhooks, "webhook", {"id": made, "name": f"hook-{made}", "url": url, "secret_sealed": sealed}
        )
    return made


async def delivery(engine: AsyncEngine, hook_id: str) -> Any:
    async with engine.connect() as connection:
        found = await connection.execute(
            select(webhook_deliveries).where(webhook_deliveries.c.webhook_id == hook_id)
        )
        return found.one()


async def due_now(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            text("UPDATE gateway.webhook_deliveries SET next_at = now() WHERE next_at IS NOT NULL")
        )


async def test_an_event_arrives_signed_and_again_until_it_is_taken(
    engine: AsyncEngine, configuration: Configuration, root: Actor, spend: Spending, receiver: Receiver
) -> None:
    made = await hook(configuration, root, receiver.url)
    budget = budget_of(1000, ScopeKind.USER, subject_id="ev_f", thresholds=(100,), name="pocket")
    await spend("ev_f", 1001)
    assert await watch_of(engine, budget).turn() == 1
    sender = WebhookSender(engine, SEALING, listed={"127.0.0.1"})
    receiver.statuses = ["503 Busy", "302 Found", "200 OK"]
    assert await sender.turn() == 1
    assert await sender.turn() == 0, "it waits before it is tried again"
    for problem in ("it answered 503", "it answered 302"):
        assert (await delivery(engine, made)).problem == problem
        await due_now(engine)
        assert await sender.turn() == 1
    taken = await delivery(engine, made)
    assert (taken.attempts, taken.next_at, taken.problem) == (3, None, None)
    assert taken.delivered_at is not None
    assert len(receiver.got) == 3, "no redirect was followed"
    line, headers, body = receiver.got[-1]
    assert line == "POST /hook?x=1 HTTP/1.1"
    assert verifies(SECRET, body, headers[HEADER], int(time.time()))
    assert not verifies(SECRET, body + b" ", headers[HEADER], int(time.time()))
    assert not verifies(SECRET, body, headers[HEADER], int(time.time()) + 301), "an old one is no new one"
    assert SECRET.decode() not in str(headers)
    told = json.loads(body)
    assert told["type"] == "budget.threshold"
    assert headers["weighbridge-event"] == told["id"] == taken.event_id
    assert (told["data"]["budget_name"], told["data"]["threshold_percent"]) == ("pocket", 100)
    assert (told["data"]["usd"], told["data"]["spent_nano_usd"]) == ("0.000001", 1001)


async def test_a_webhook_that_never_answers_is_given_up_and_counted(
    engine: AsyncEngine, configuration: Configuration, root: Actor, spend: Spending
) -> None:
    made = await hook(configuration, root, "http://127.0.0.1:9/x")
    budget = budget_of(1000, ScopeKind.USER, subject_id="ev_g", thresholds=(100,))
    await spend("ev_g", 1000)
    await watch_of(engine, budget).turn()
    sender = WebhookSender(engine, SEALING, listed={"127.0.0.1"})
    before = await sender.dropped()
    for _ in range(12):
        await due_now(engine)
        assert await sender.turn() == 1
    await due_now(engine)
    assert await sender.turn() == 0
    given_up = await delivery(engine, made)
    assert given_up.delivered_at is None
    assert given_up.problem.startswith("given up after 12 tries")
    assert await sender.dropped() == before + 1


async def test_a_full_queue_takes_no_more_and_stops_nothing(
    engine: AsyncEngine,
    configuration: Configuration,
    root: Actor,
    spend: Spending,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = await hook(configuration, root, "http://127.0.0.1:9/x")
    monkeypatch.setattr(outbox, "MOST_WAITING", 1)
    budget = budget_of(1000, ScopeKind.USER, subject_id="ev_h", thresholds=(50, 100))
    await spend("ev_h", 1000)
    assert await watch_of(engine, budget).turn() == 2
    async with engine.connect() as connection:
        found = await connection.execute(
            select(webhook_deliveries.c.problem)
            .where(webhook_deliveries.c.webhook_id == made)
            .order_by(webhook_deliveries.c.id)
        )
        assert [row[0] for row in found] == [None, outbox.FULL]


async def test_what_was_sealed_for_another_webhook_is_not_sent(
    engine: AsyncEngine, configuration: Configuration, root: Actor, spend: Spending, receiver: Receiver
) -> None:
    made = await hook(configuration, root, receiver.url)
    budget = budget_of(1000, ScopeKind.USER, subject_id="ev_i", thresholds=(100,))
    await spend("ev_i", 1000)
    await watch_of(engine, budget).turn()
    await WebhookSender(engine, Sealing({1: b"x" * 32}), listed={"127.0.0.1"}).turn()
    assert receiver.got == []
    assert "sealed" in (await delivery(engine, made)).problem


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:10.0.0.1", "64:ff9b::a00:1",
        "2002:a00:1::", "192.0.2.1", "64:ff9b::808:808", "64:ff9b:1::1", "2001::f7f7:f7f7",
    ],
)  # fmt: skip
async def test_a_name_that_leads_to_a_private_address_is_not_connected_to(address: str) -> None:
    async def leads(host: str, port: int) -> list[str]:
        return ["93.184.216.34", address]

    with pytest.raises(AddressRefused, match="public internet"):
        await resolved(read_address("https://hooks.example.com/", ()), leads)


async def test_the_address_that_was_checked_is_the_one_that_is_connected_to(receiver: Receiver) -> None:
    asked: list[str] = []

    async def leads(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    address = read_address(f"http://hooks.example.com:{receiver.port}/x", {"hooks.example.com"})
    assert await post(address, b"{}", {}, resolve=leads) == 200
    assert asked == ["hooks.example.com"]
    assert receiver.got[0][1]["host"] == f"hooks.example.com:{receiver.port}"


async def test_a_receiver_that_says_nothing_or_nonsense_has_failed() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * 100_000)
        await writer.drain()
        writer.close()

    for talk, problem in ((mute, "no answer within"), (babble, "no HTTP")):
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(PostFailed, match=problem):
            await post(read_address(f"http://127.0.0.1:{port}/", {"127.0.0.1"}), b"{}", {}, seconds=0.3)
        server.close()


def test_public_addresses_pass() -> None:
    for each in ("93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"):
        refuse_private(each)


def test_the_signature_is_of_the_time_and_the_body() -> None:
    assert signed(b"k" * 32, b"{}", 1_700_000_000).startswith("t=1700000000,v1=")
    assert signed(b"k" * 32, b"{}", 1) != signed(b"k" * 32, b"{}", 2).replace("t=2", "t=1")
