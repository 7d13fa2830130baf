"""Money through real workers: parallel calls cannot overrun a budget, lost counters come back as the ledger has them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.embedded.redis import EmbeddedRedis
from gateway.events.sender import seal_subject
from gateway.events.signature import HEADER, verifies
from gateway.security.sealing import Sealing
from gateway.security.secrets import Purpose, load_master_key
from gateway.store import database
from gateway.store.changes import Actor, Configuration
from gateway.store.tables.events import webhooks
from tests.budgets.conftest import Receiver
from tests.system.deployment import ENDPOINT, Deployment, chat

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

CHAT = "/v1/chat/completions"
PARALLEL = 200
SLICE = 256
INPUT, OUTPUT = 500, 1_000
"""Nano-dollars a token of the demo endpoint."""
numbers = count()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def redis(stores_home: Path) -> AsyncIterator[EmbeddedRedis]:
    """A Redis that a test may stop."""
    async with EmbeddedRedis(stores_home / "purse") as server:
        yield server


@pytest.fixture(scope="module")
def module_redis(redis: EmbeddedRedis) -> str:
    return redis.url()


@pytest.fixture(scope="module")
def workers() -> int:
    return 2


async def newcomer(gateway: Deployment) -> tuple[dict[str, Any], str]:
    """A user whom no counter has seen yet, and its key."""
    user = await gateway.administer("POST", "/users", {"name": f"newcomer-{next(numbers)}"})
    grant = {"grantee_kind": "user", "grantee_id": user["id"], "level": "CAN_QUERY"}
    answer = await gateway.ask(
        "PUT", f"/admin/v1/endpoints/{gateway.ids[ENDPOINT]}/grants", grant, key=gateway.admin_key
    )
    assert answer.status < 300, answer.body
    made = await gateway.administer("POST", "/keys", {"principal_id": user["id"], "name": "k"})
    return user, made["key"]


async def reserved(gateway: Deployment, body: dict[str, Any]) -> int:
    """What a call reserves, asked of somebody whom a budget binds that nothing exhausts."""
    answer = await gateway.ask("POST", CHAT, body, key=gateway.keys["bulk"])
    assert answer.status == 200, answer.body
    parts = dict(each.strip().split("=") for each in answer.headers["x-weighbridge-reserved"].split(","))
    return int(parts["nano_usd"])


async def spent_by(gateway: Deployment, user: dict[str, Any]) -> int:
    await gateway.drained()
    (row,) = await gateway.query(
        "SELECT coalesce(sum(cost_nano_usd), 0)::bigint AS spent FROM gateway.requests WHERE principal_id = $1",
        user["id"],
    )
    return row["spent"]


async def rule(gateway: Deployment, user: dict[str, Any], budget: dict[str, Any]) -> dict[str, Any]:
    """The budget as it is read back for that user, once the counters are there."""
    deadline = asyncio.get_running_loop().time() + 30
    while True:
        told = await gateway.administer("GET", f"/effective?endpoint={ENDPOINT}&principal={user['id']}")
        if told["counters"] == "live":
            break
        assert asyncio.get_running_loop().time() < deadline, gateway.ends_of_logs()
        await asyncio.sleep(0.1)
    (found,) = [each for each in told["rules"] if each["id"] == budget["id"]]
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def everybody(gateway: Deployment) -> dict[str, Any]:
    """A budget large enough for everybody, so that money is counted for `bulk` as well."""
    body = {"scope": "user_default", "period": "once", "usd": "100"}
    return await gateway.administer("POST", "/budgets", body)


async def test_two_hundred_parallel_calls_of_a_new_user_spend_no_more_than_a_budget_for_ten(
    gateway: Deployment, everybody: dict[str, Any]
) -> None:
    user, key = await newcomer(gateway)
    body = chat("[[tokens=40 first=2s]]", max_tokens=40)
    each = await reserved(gateway, body)
    budget = await gateway.administer(
        "POST",
        "/budgets",
        {"scope": "user", "subject_id": user["id"], "period": "month", "nano_usd": 10 * each},
    )
    answers = await asyncio.gather(
        *(gateway.ask("POST", CHAT, body, key=key, timeout=60) for _ in range(PARALLEL))
    )
    statuses = {status: sum(each.status == status for each in answers) for status in (200, 429)}
    assert sum(statuses.values()) == PARALLEL, {each.status for each in answers}
    assert statuses[200] >= 10
    for refused in (each for each in answers if each.status == 429):
        assert refused.code == "insufficient_quota"
        assert refused.headers["x-should-retry"] == "false"
        assert "retry-after" not in refused.headers
        detail = refused.json()["error"]["limit"]
        assert (detail["limit"], detail["amount"]) == (budget["id"], 10 * each)
    spent = await spent_by(gateway, user)
    print(f"{statuses[200]} of {PARALLEL} admitted; spent {spent} of {10 * each} nano-dollars")
    assert 0 < spent <= 10 * each
    # What is held is exactly what was spent, and the balance says the same as the ledger.
    assert (await rule(gateway, user, budget))["used"] == spent
    (balance,) = (await gateway.administer("GET", f"/budgets/{budget['id']}/balance"))["items"]
    assert (balance["spent_nano_usd"], balance["reserved_nano_usd"]) == (spent, 0)
    assert balance["left_nano_usd"] == 10 * each - spent


async def test_parallel_streams_overrun_by_no_more_than_a_slice_for_each_that_was_cut(
    gateway: Deployment, everybody: dict[str, Any]
) -> None:
    user, key = await newcomer(gateway)
    amount = 10 * 600 * OUTPUT
    await gateway.administer(
        "POST",
        "/budgets",
        {"scope": "user", "subject_id": user["id"], "period": "once", "nano_usd": amount},
    )
    body = chat("[[tokens=600 delay=1ms]]", max_tokens=None, stream=True)
    answers = await asyncio.gather(*(gateway.ask("POST", CHAT, body, key=key, timeout=60) for _ in range(60)))
    cut = sum(
        any(
            isinstance(event, dict) and (event.get("weighbridge") or {}).get("stopped_by") == "limit"
            for event in answer.events()
        )
        for answer in answers
        if answer.status == 200
    )
    spent = await spent_by(gateway, user)
    print(f"{cut} streams were cut; spent {spent} of {amount} nano-dollars")
    assert cut
    assert spent <= amount + cut * SLICE * OUTPUT
    for answer in (each for each in answers if each.status == 200):
        assert answer.events()[-1] == "[DONE]"


async def test_an_exhausted_budget_is_a_403_on_databricks_routes_and_hides_no_usage(
    gateway: Deployment, everybody: dict[str, Any]
) -> None:
    user, key = await newcomer(gateway)
    budget = await gateway.administer(
        "POST",
        "/budgets",
        {"scope": "user", "subject_id": user["id"], "period": "day", "nano_usd": 1, "name": "nothing"},
    )
    body = chat("hello")
    body.pop("model")
    answer = await gateway.ask("POST", f"/serving-endpoints/{ENDPOINT}/invocations", body, key=key)
    assert (answer.status, answer.code) == (403, "PERMISSION_DENIED")
    assert "retry-after" not in answer.headers
    assert "'nothing'" in answer.body.decode()
    # Reading what holds, and what is left of it, never takes a budget.
    told = await gateway.ask("GET", f"/admin/v1/effective?endpoint={ENDPOINT}", key=key)
    assert told.status == 200
    assert budget["id"] in told.body.decode()
    assert (await gateway.ask("GET", "/v1/models", key=key)).status == 200


async def test_an_increase_lets_the_next_call_through_and_its_end_refuses_it_again(
    gateway: Deployment, everybody: dict[str, Any]
) -> None:
    user, key = await newcomer(gateway)
    body = chat("[[tokens=5]]", max_tokens=5)
    each = await reserved(gateway, body)
    budget = await gateway.administer(
        "POST",
        "/budgets",
        {"scope": "user", "subject_id": user["id"], "period": "week", "nano_usd": each - 1},
    )
    assert (await gateway.ask("POST", CHAT, body, key=key)).status == 429
    path = f"/admin/v1/budgets/{budget['id']}"

    async def change(method: str, more: Any = None) -> None:
        seen = await gateway.ask("GET", path, key=gateway.admin_key)
        told = [("if-match", seen.headers["etag"])]
        answer = await gateway.ask(method, f"{path}/increases", more, key=gateway.admin_key, headers=told)
        assert answer.status < 300, answer.body
        await gateway.followed()

    await change("POST", {"nano_usd": each, "until": "2099-01-01T00:00:00Z"})
    assert (await gateway.ask("POST", CHAT, body, key=key)).status == 200
    await change("DELETE")
    assert (await gateway.ask("POST", CHAT, body, key=key)).status == 429


async def test_counters_that_were_flushed_or_restarted_come_back_as_the_ledger_has_them(
    gateway: Deployment, everybody: dict[str, Any], redis: EmbeddedRedis
) -> None:
    from redis.asyncio import Redis

    user, key = await newcomer(gateway)
    body = chat("[[tokens=30]]", max_tokens=30)
    each = await reserved(gateway, body)
    budget = await gateway.administer(
        "POST",
        "/budgets",
        {"scope": "user", "subject_id": user["id"], "period": "month", "nano_usd": 6 * each},
    )
    for _ in range(4):
        assert (await gateway.ask("POST", CHAT, body, key=key)).status == 200
    spent = await spent_by(gateway, user)
    before = await rule(gateway, user, budget)
    assert before["used"] == spent
    loads = everybody["id"], gateway.ids["bulk"]

    async with Redis.from_url(redis.url()) as client:
        await client.flushall()
    assert (await rule(gateway, user, budget))["used"] == spent
    await redis.stop()
    await redis.start()
    assert (await rule(gateway, user, budget))["used"] == spent
    # And it still binds: two more fit by what was really used, then nothing does.
    more = [await gateway.ask("POST", CHAT, body, key=key) for _ in range(8)]
    assert 429 in {answer.status for answer in more}
    total = await spent_by(gateway, user)
    assert total <= 6 * each
    assert (await rule(gateway, user, budget))["used"] == total
    whole = await gateway.administer("GET", f"/budgets/{loads[0]}/balance?subject={loads[1]}")
    (row,) = await gateway.query(
        "SELECT sum(cost_nano_usd)::bigint AS spent FROM gateway.requests WHERE principal_id = $1", loads[1]
    )
    assert whole["items"][0]["spent_nano_usd"] == row["spent"]
    assert whole["items"][0]["reserved_nano_usd"] == 0


async def test_counters_flushed_in_the_middle_of_streams_end_equal_to_the_ledger(
    gateway: Deployment, everybody: dict[str, Any], redis: EmbeddedRedis
) -> None:
    from redis.asyncio import Redis

    user, key = await newcomer(gateway)
    amount = 10_000_000 * OUTPUT
    budget = await gateway.administer(
        "POST",
        "/budgets",
        {"scope": "user", "subject_id": user["id"], "period": "month", "nano_usd": amount},
    )
    long = chat("[[tokens=300 delay=15ms]]", max_tokens=None, stream=True)
    short = chat("[[tokens=20]]", max_tokens=20)
    streams = [asyncio.create_task(gateway.ask("POST", CHAT, long, key=key, timeout=60)) for _ in range(20)]
    calls: list[int] = []

    async def call() -> None:
        while not all(each.done() for each in streams):
            calls.append((await gateway.ask("POST", CHAT, short, key=key)).status)

    calling = [asyncio.create_task(call()) for _ in range(3)]
    for _ in range(2):
        await asyncio.sleep(1.2)
        async with Redis.from_url(redis.url()) as client:
            await client.flushall()
    answers = await asyncio.gather(*streams)
    await asyncio.gather(*calling)
    assert {each.status for each in answers} == {200}
    print(f"{len(calls)} calls meanwhile: { ({each: calls.count(each) for each in set(calls)}) }")
    assert set(calls) == {200}
    spent = await spent_by(gateway, user)
    deadline = asyncio.get_running_loop().time() + 10
    while (found := await rule(gateway, user, budget))["used"] != spent:
        assert asyncio.get_running_loop().time() < deadline, (found["used"], spent, gateway.ends_of_logs())
        await asyncio.sleep(0.2)


async def test_a_budget_made_in_the_middle_of_its_period_begins_with_what_was_spent(
    gateway: Deployment, everybody: dict[str, Any]
) -> None:
    user, key = await newcomer(gateway)
    body = chat("[[tokens=30]]", max_tokens=30)
    assert (await gateway.ask("POST", CHAT, body, key=key)).status == 200
    spent = await spent_by(gateway, user)
    budget = await gateway.administer(
        "POST",
        "/budgets",
        {"scope": "user", "subject_id": user["id"], "period": "month", "nano_usd": spent + 1},
    )
    deadline = asyncio.get_running_loop().time() + 10
    while (await rule(gateway, user, budget))["used"] != spent:
        assert asyncio.get_running_loop().time() < deadline, gateway.ends_of_logs()
        await asyncio.sleep(0.1)
    assert (await gateway.ask("POST", CHAT, body, key=key)).status == 429


async def test_a_threshold_is_one_audited_event_whatever_becomes_of_the_drainer(
    gateway: Deployment, everybody: dict[str, Any]
) -> None:
    user, key = await newcomer(gateway)
    body = chat("[[tokens=30]]", max_tokens=30)
    budget = await gateway.administer(
        "POST",
        "/budgets",
        {
            "scope": "user",
            "subject_id": user["id"],
            "period": "month",
            "nano_usd": 200 * OUTPUT,
            "thresholds_percent": [10, 25],
        },
    )

    async def events() -> list[int]:
        listed = await gateway.administer("GET", f"/audit?object_id={budget['id']}&limit=200")
        return sorted(
            each["after"]["threshold_percent"]
            for each in listed["items"]
            if each["action"] == "budget.threshold_reached"
        )

    for _ in range(3):
        assert (await gateway.ask("POST", CHAT, body, key=key)).status == 200
        await gateway.kill("drainer")
    await gateway.drained()
    deadline = asyncio.get_running_loop().time() + 20
    while await events() != [10, 25]:
        assert asyncio.get_running_loop().time() < deadline, gateway.ends_of_logs()
        await asyncio.sleep(0.2)
    await gateway.kill("drainer")
    await asyncio.sleep(1.5)
    assert await events() == [10, 25]


async def test_the_drainer_tells_a_webhook_what_it_found_signed(
    gateway: Deployment, everybody: dict[str, Any], database_url: str
) -> None:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    master = load_master_key(gateway.settings.secret_file)
    sealing = Sealing(master.derive_all(Purpose.CREDENTIALS))
    secret = b"a secret of the receiver, at least 32 bytes"
    engine = database.engine(database_url, application_name="weighbridge-test", size=0)
    configuration = Configuration(engine, master.derive(Purpose.AUDIT_CHAIN))
    # A loopback receiver cannot be entered while the workers' settings do not list it: written as the route would.
    async with configuration.change(Actor(None, "test")) as change:
        made = change.new_id()
        values: dict[str, Any] = {"id": made, "name": "receiver", "url": receiver.url}
        values["secret_sealed"] = sealing.seal(secret, seal_subject(made))
        await change.add(webhooks, "webhook", values)
    await engine.dispose()
    await gateway.arm("drainer", {"WEIGHBRIDGE_WEBHOOK_HOSTS": "127.0.0.1"})
    user, key = await newcomer(gateway)
    budget = await gateway.administer(
        "POST",
        "/budgets",
        {
            "scope": "user",
            "subject_id": user["id"],
            "period": "month",
            "nano_usd": 100 * OUTPUT,
            "thresholds_percent": [10],
        },
    )
    answer = await gateway.ask("POST", CHAT, chat("[[tokens=30]]", max_tokens=30), key=key)
    assert answer.status == 200
    deadline = asyncio.get_running_loop().time() + 20
    while not receiver.got:
        assert asyncio.get_running_loop().time() < deadline, gateway.ends_of_logs()
        await asyncio.sleep(0.05)
    _, headers, body = receiver.got[0]
    assert verifies(secret, body, headers[HEADER], int(time.time()))
    assert budget["id"].encode() in body
    listed = (await gateway.administer("GET", f"/webhooks/{made}/deliveries"))["items"]
    assert [each["attempts"] for each in listed] == [1]
    server.close()
    await server.wait_closed()
