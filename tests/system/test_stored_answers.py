"""Stored answers through a whole deployment: two workers, a real Redis, the ledger, and the official client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from tests.faults.upstream import Upstream
from tests.system.asking import Answer
from tests.system.deployment import Deployment, Person, limit

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

NAME = "stored"
HIT_COSTS = 1_234
SAID = "w1 w2 w3"
PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def workers() -> int:
    return 2


@pytest.fixture(scope="module")
def people() -> dict[str, Person]:
    return {"ann": Person(), "bob": Person(), "none": Person((limit("requests", 0),))}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def endpoint(gateway: Deployment) -> AsyncIterator[str]:
    """The id of an endpoint that stores its answers, each caller's apart."""
    made = await gateway.administer(
        "POST",
        "/endpoints/",
        {
            "name": NAME,
            "cache": {"enabled": True, "ttl_seconds": 600},
            "served_entities": [{"name": "m", "kind": "local", "provider": "vllm", "model": "mixtral-demo"}],
        },
    )
    price = dict.fromkeys(("input", "cache_read", "cache_write", "output", "reasoning"), 1_000_000_000)
    entity = made["served_entities"][0]["id"]
    await gateway.administer(
        "POST", "/prices/", {"served_entity_id": entity, "per_cache_hit": HIT_COSTS, **price}
    )
    for name in ("ann", "bob", "none"):
        grant = {"grantee_kind": "user", "grantee_id": gateway.ids[name], "level": "CAN_QUERY"}
        await gateway.administer("PUT", f"/endpoints/{made['id']}/grants", grant)
    yield made["id"]


def question(prompt: str = f"[[tokens={len(SAID.split())}]]", **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    return {"model": NAME, "messages": messages, "temperature": 0, "max_tokens": 20, **more}


async def ask(gateway: Deployment, name: str, cache_control: str = "", **body: Any) -> Answer:
    headers = [("cache-control", cache_control)] if cache_control else []
    answer = await gateway.ask(
        "POST", "/v1/chat/completions", question(**body), key=gateway.keys[name], headers=headers
    )
    assert answer.status == 200, answer.body
    return answer


async def until_hit(gateway: Deployment, name: str, **body: Any) -> Answer:
    """Ask until it is answered from the store: a worker's first question only makes its connection."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            answer = await ask(gateway, name, **body)
            if answer.headers["x-weighbridge-cache"] == "hit":
                return answer
            assert answer.headers["x-weighbridge-cache"] == "miss"


async def test_two_callers_and_one_prompt_each_get_their_own_answer_and_nobody_the_others(
    gateway: Deployment, endpoint: str, upstream: Upstream
) -> None:
    prompt = "[[tokens=3]] for two"
    await until_hit(gateway, "ann", prompt=prompt)
    called = len(upstream.received)
    for _ in range(8):
        # Over fresh connections, so that both workers are met.
        await ask(gateway, "ann", prompt=prompt)
    first = await ask(gateway, "bob", prompt=prompt)
    assert first.headers["x-weighbridge-cache"] == "miss"
    assert len(upstream.received) > called
    await until_hit(gateway, "bob", prompt=prompt)


async def test_an_endpoint_that_says_so_shares_them_and_its_change_forgets_those_before(
    gateway: Deployment, endpoint: str
) -> None:
    prompt = "[[tokens=3]] for all"
    await until_hit(gateway, "ann", prompt=prompt)
    shared = {"cache": {"enabled": True, "ttl_seconds": 600, "scope": "endpoint"}}
    await gateway.administer("PATCH", f"/endpoints/{endpoint}", shared)
    assert (await ask(gateway, "ann", prompt=prompt)).headers["x-weighbridge-cache"] == "miss"
    hit = await until_hit(gateway, "bob", prompt=prompt)
    assert int(hit.headers["age"]) >= 0
    own = {"cache": {"enabled": True, "ttl_seconds": 600}}
    await gateway.administer("PATCH", f"/endpoints/{endpoint}", own)


async def test_a_hit_is_a_row_of_its_own_class_and_price_and_the_books_add_up(
    gateway: Deployment, endpoint: str
) -> None:
    hit = await until_hit(gateway, "ann", prompt="[[tokens=3]] for the books")
    row = await gateway.row_of(hit.request_id)
    assert (row["cache_hit"], row["status"], row["http_status"]) == (True, "ok", 200)
    assert (row["cost_nano_usd"], row["attempts"], row["entity_name"]) == (HIT_COSTS, 0, "m")
    assert (row["prompt_tokens"], row["completion_tokens"], row["usage_source"]) == (0, 0, "none")
    (attempt,) = await gateway.query(
        "SELECT outcome, cost_nano_usd, borne FROM gateway.attempts WHERE request_id = $1::uuid",
        hit.request_id,
    )
    assert attempt == {"outcome": "cached", "cost_nano_usd": HIT_COSTS, "borne": True}
    await gateway.drained()
    (sums,) = await gateway.query(
        "SELECT (SELECT count(*) FILTER (WHERE cache_hit) FROM gateway.requests) AS rows,"
        " (SELECT sum(cache_hits)::int8 FROM gateway.usage_hour) AS hours,"
        " (SELECT count(*) FROM gateway.requests r WHERE cost_nano_usd <>"
        "   (SELECT coalesce(sum(a.cost_nano_usd) FILTER (WHERE a.borne), 0) FROM gateway.attempts a"
        "    WHERE a.request_id = r.request_id)) AS wrong"
    )
    assert sums["rows"] == sums["hours"] > 0
    assert sums["wrong"] == 0


async def test_who_has_no_room_gets_no_stored_answer(gateway: Deployment, endpoint: str) -> None:
    refused = await gateway.ask("POST", "/v1/chat/completions", question(), key=gateway.keys["none"])
    assert refused.status == 429
    assert "x-weighbridge-cache" not in refused.headers


async def test_plain_and_streamed_calls_answer_each_other_in_the_official_client(
    gateway: Deployment, endpoint: str
) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.keys["ann"]) as client:
        await until_hit(gateway, "ann", prompt="[[tokens=3]] streamed")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                raw = await client.chat.completions.with_raw_response.create(
                    **question("[[tokens=3]] streamed"), stream=True, stream_options={"include_usage": True}
                )
                chunks = [chunk async for chunk in raw.parse()]
                if raw.headers["x-weighbridge-cache"] == "hit":
                    break
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == SAID
        assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 3
        async for _ in await client.chat.completions.create(**question("[[tokens=3]] first"), stream=True):
            pass
    plain = await until_hit(gateway, "ann", prompt="[[tokens=3]] first")
    assert plain.json()["choices"][0]["message"]["content"] == SAID
    assert plain.json()["usage"]["completion_tokens"] == 3


async def test_cache_control_is_honoured_and_what_failed_is_asked_again(
    gateway: Deployment, endpoint: str
) -> None:
    await until_hit(gateway, "ann")
    for said in ("no-cache", "no-store", "max-age=0"):
        assert (await ask(gateway, "ann", said)).headers["x-weighbridge-cache"] == "bypass"
    assert (await ask(gateway, "ann", temperature=0.5)).headers["x-weighbridge-cache"] == "bypass"
    for _ in range(2):
        failed = await gateway.ask(
            "POST", "/v1/chat/completions", question("[[fail=500]]"), key=gateway.keys["ann"]
        )
        assert failed.status == 502
