"""A worker with all the calls that it may run turns the next one away at once, reserves nothing, and stays in order."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.faults.upstream import Upstream
from tests.system.asking import Answer, ask
from tests.system.deployment import Deployment, Person, chat, limit

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
MOST = 8
CROWD = MOST * 3 // 4
"""From here on who has its share or more is turned away."""
HELD = "tokens=4 first=60s"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    homes: Path, database_url: str, module_redis: str, upstream: Upstream
) -> AsyncIterator[Deployment]:
    made = Deployment(
        home=homes / "gateway",
        database_url=database_url,
        redis_url=module_redis,
        engine_url=upstream.url,
        people={"flood": Person((limit("requests", 1000),)), "light": Person()},
        workers=1,
        environment={"WEIGHBRIDGE_MAX_CALLS": str(MOST)},
    )
    async with made:
        yield made


async def test_a_full_worker_turns_calls_away_reserves_nothing_and_answers_all_else(
    gateway: Deployment, upstream: Upstream
) -> None:
    async def call(who: str, script: str = "tokens=4") -> Answer:
        return await ask(gateway.port, "POST", CHAT, chat(f"[[{script}]]"), key=gateway.keys[who])

    for who in ("flood", "light"):
        assert (await call(who)).status == 200
    answered = 2
    held = [asyncio.create_task(call("flood", HELD)) for _ in range(CROWD)]
    await upstream.until(lambda _: upstream.running == CROWD, 10.0)
    try:
        for path, told in (
            (CHAT, "overloaded"),
            ("/v1/messages", None),
            ("/serving-endpoints/chat/completions", "TEMPORARILY_UNAVAILABLE"),
        ):
            refused = await ask(gateway.port, "POST", path, chat(), key=gateway.keys["flood"])
            assert (refused.status, refused.code) == (503, told), path
            assert 1 <= int(refused.headers["retry-after"]) <= 3
            assert refused.request_id
        # Whoever has less under way than others still gets in, until nothing is left.
        assert (await call("light")).status == 200
        answered += 1
        held += [asyncio.create_task(call("light", HELD)) for _ in range(MOST - CROWD)]
        await upstream.until(lambda _: upstream.running == MOST, 10.0)
        assert [(await call(who)).status for who in ("light", "flood", "bulk")] == [503, 503, 503]
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await ask(gateway.port, "GET", path)).status == 200
        people = await ask(gateway.port, "GET", "/admin/v1/users", key=gateway.admin_key)
        assert people.status == 200
        page = (await ask(gateway.port, "GET", "/metrics")).body.decode()
        assert re.search(r'^weighbridge_refused_total\{code="overloaded"\} 6\.0$', page, re.MULTILINE)
    finally:
        for each in held:
            each.cancel()
        await asyncio.gather(*held, return_exceptions=True)
    await upstream.until(lambda _: upstream.running == 0, 10.0)
    again = await call("flood")
    assert again.status == 200
    # Of the thousand a minute: what was answered and what was held, and nothing of what was turned away.
    assert int(again.headers["x-ratelimit-remaining-requests"]) == 1000 - (1 + CROWD + 1)
    await gateway.drained()
    assert len(await gateway.ledger_rows()) == answered + len(held) + 1


async def test_a_large_body_is_read_beside_the_event_loop_and_answered_or_refused_as_any(
    gateway: Deployment,
) -> None:
    words = "Weigh each request on its way in and once more on its way out. " * 50_000
    answered = await ask(gateway.port, "POST", CHAT, chat(f"[[tokens=4]] {words}"), key=gateway.keys["light"])
    assert answered.status == 200
    row = await gateway.row_of(answered.request_id)
    assert row["prompt_tokens"] > 500_000
    for body, code in (
        (b'{"model": "' + b"x" * 200_000, "invalid_json"),
        (b'{"n": 1, "n": 1, "model": "' + b"x" * 200_000 + b'"}', "duplicate_key"),
        (b'{"model": "' + b"x" * 200_000 + b'"}', "invalid_request"),
    ):
        refused = await ask(gateway.port, "POST", CHAT, body, key=gateway.keys["light"])
        assert (refused.status, refused.code) == (400, code)
