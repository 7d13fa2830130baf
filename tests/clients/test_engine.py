"""The real vLLM with the demonstration model behind the gateway: same answers, same tokens, and it stops when told."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import anthropic.types
import openai
import openai.types.responses
import pytest
import pytest_asyncio

from engines.local.launch import EngineSpec
from tests.faults.wire import BEFORE_FIRST, MID_STREAM, Client, Spec
from tests.system.deployment import ENDPOINT, Deployment, chat

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

CHAT = "/v1/chat/completions"
QUESTIONS = [
    "What is Weighbridge?",
    "What is a mixture of experts model?",
    "Hello!",
    "Who are you?",
    "Describe Databricks SQL in 30 words.",
]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def gateway(
    homes: Path, database_url: str, module_redis: str, engine: EngineSpec
) -> AsyncIterator[Deployment]:
    """Two workers before the real engine."""
    made = Deployment(
        home=homes / "gateway",
        database_url=database_url,
        redis_url=module_redis,
        engine_url=engine.url,
        workers=2,
    )
    async with made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def direct(engine: EngineSpec) -> AsyncIterator[aiohttp.ClientSession]:
    """The engine itself, without the gateway."""
    async with aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(str(engine.socket)), base_url="http://engine"
    ) as session:
        yield session


async def gauge(direct: aiohttp.ClientSession, name: str) -> float:
    """The sum of one of vLLM's metrics."""
    async with direct.get("/metrics") as answer:
        page = await answer.text()
    values = re.findall(rf"^vllm:{name}(?:{{[^}}]*}})? (\S+)$", page, re.MULTILINE)
    assert values, f"vLLM has no metric {name}"
    return sum(map(float, values))


async def until_idle(direct: aiohttp.ClientSession, seconds: float) -> float:
    """How long it took until vLLM had no running and no waiting request."""
    began = time.monotonic()
    while await gauge(direct, "num_requests_running") + await gauge(direct, "num_requests_waiting"):
        assert time.monotonic() - began < seconds, "vLLM goes on although its client has left"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


@pytest.mark.parametrize("question", QUESTIONS)
async def test_the_gateways_answer_is_the_engines_own(
    gateway: Deployment, direct: aiohttp.ClientSession, question: str
) -> None:
    body = chat(question, max_tokens=120, temperature=0)
    async with direct.post(CHAT, json=body | {"model": "mixtral-demo"}) as answer:
        assert answer.status == 200
        own: dict[str, Any] = await answer.json()
    ours = await gateway.ask("POST", CHAT, body, key=gateway.demo_key)
    assert ours.status == 200
    told = ours.json()
    assert told["model"] == "mixtral-demo"
    assert told["choices"][0]["message"]["content"] == own["choices"][0]["message"]["content"]
    assert told["choices"][0]["finish_reason"] == own["choices"][0]["finish_reason"]
    assert told["usage"]["total_tokens"] == own["usage"]["total_tokens"]
    streamed = await gateway.ask("POST", CHAT, body | {"stream": True}, key=gateway.demo_key)
    *events, done = streamed.events()
    assert done == "[DONE]"
    said = "".join(event["choices"][0]["delta"].get("content") or "" for event in events)
    assert said == told["choices"][0]["message"]["content"]
    for each in (ours, streamed):
        row = await gateway.row_of(each.request_id)
        assert (row["prompt_tokens"], row["completion_tokens"]) == (
            own["usage"]["prompt_tokens"],
            own["usage"]["completion_tokens"],
        )
        assert (row["status"], row["usage_source"], row["model"]) == ("ok", "reported", "mixtral-demo")


async def test_the_ledgers_tokens_are_the_engines_own_count(
    gateway: Deployment, direct: aiohttp.ClientSession
) -> None:
    await until_idle(direct, 10)
    before = [await gauge(direct, name) for name in ("prompt_tokens_total", "generation_tokens_total")]
    answers = await asyncio.gather(
        *(
            gateway.ask(
                "POST",
                CHAT,
                chat(f"{QUESTIONS[n % 5]} {n}", max_tokens=20 + n, stream=n % 2 == 0, temperature=0),
                key=gateway.keys["bulk"],
            )
            for n in range(24)
        )
    )
    assert {each.status for each in answers} == {200}
    rows = [await gateway.row_of(each.request_id) for each in answers]
    await until_idle(direct, 10)
    after = [await gauge(direct, name) for name in ("prompt_tokens_total", "generation_tokens_total")]
    assert sum(row["prompt_tokens"] for row in rows) == after[0] - before[0]
    assert sum(row["completion_tokens"] for row in rows) == after[1] - before[1]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
async def test_a_client_that_leaves_frees_the_engine_within_a_second_and_its_row_is_cut(
    gateway: Deployment, direct: aiohttp.ClientSession, stream: bool
) -> None:
    await until_idle(direct, 10)
    before = await gauge(direct, "generation_tokens_total")
    body = json.dumps(chat("Tell me all.", stream=stream, max_tokens=3500, ignore_eos=True)).encode()
    leave = (MID_STREAM, 20.0) if stream else (BEFORE_FIRST, 0.3)
    transcript = await Client(gateway.target).call(
        Spec(call=1, body=body, stream=stream, key=gateway.keys["bulk"], leave=leave[0], leave_at=leave[1])
    )
    assert transcript.how == "left"
    took = await until_idle(direct, 1.0)
    await gateway.drained()
    row = (await gateway.ledger_rows())[-1]
    assert (row["status"], row["stopped_by"]) == ("cut", "client")
    generated = await gauge(direct, "generation_tokens_total") - before
    print(
        f"idle {took * 1000:.0f} ms after; delivered {transcript.delivered}, billed {row['completion_tokens']}, generated {generated:.0f}"
    )
    assert generated < 3500
    assert transcript.delivered <= row["completion_tokens"] <= generated


async def test_the_official_openai_client_streams_an_answer(gateway: Deployment) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.demo_key) as client:
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(
                model=ENDPOINT,
                messages=[{"role": "user", "content": QUESTIONS[0]}],
                max_tokens=64,
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
            )
        ]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]).strip()
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0


async def test_the_engines_own_responses_pass_where_its_entity_says_that_it_speaks_them(
    gateway: Deployment, direct: aiohttp.ClientSession
) -> None:
    entity = {"name": "m", "kind": "local", "provider": "vllm", "model": "mixtral-demo"}
    body = {"name": "own-responses", "served_entities": [{**entity, "options": {"responses": "yes"}}]}
    await gateway.administer("POST", "/endpoints", body)
    asked: dict[str, Any] = {"input": QUESTIONS[1], "max_output_tokens": 40, "temperature": 0}
    async with direct.post("/v1/responses", json=asked | {"model": "mixtral-demo", "store": False}) as answer:
        own = openai.types.responses.Response.model_validate(await answer.json())
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.admin_key) as client:
        plain = await client.responses.create(model="own-responses", **asked)
        stream = await client.responses.create(model="own-responses", stream=True, **asked)
        request_id = stream.response.headers["x-request-id"]
        events = [each async for each in stream]
        translated = await client.responses.create(model=ENDPOINT, **asked)
    assert [each.sequence_number for each in events] == list(range(len(events)))
    said = "".join(each.delta for each in events if each.type == "response.output_text.delta")
    assert own.output_text
    assert said == plain.output_text == translated.output_text == own.output_text
    assert own.usage is not None
    # What the engine alone says of a response is there: it was not written here.
    assert "input_tokens_per_turn" in (plain.usage or own.usage).input_tokens_details.to_dict()
    assert plain._request_id is not None
    for each in (request_id, plain._request_id):
        row = await gateway.row_of(each)
        assert (row["status"], row["usage_source"], row["model"]) == ("ok", "reported", "mixtral-demo")
        assert (row["prompt_tokens"], row["completion_tokens"]) == (
            own.usage.input_tokens,
            own.usage.output_tokens,
        )


async def test_a_message_says_and_counts_what_the_engines_own_does(
    gateway: Deployment, direct: aiohttp.ClientSession
) -> None:
    asked: dict[str, Any] = {
        "messages": [{"role": "user", "content": QUESTIONS[1]}],
        "max_tokens": 40,
        "temperature": 0,
    }
    async with direct.post("/v1/messages", json=asked | {"model": "mixtral-demo"}) as answer:
        own = anthropic.types.Message.model_validate(await answer.json())
    async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key=gateway.demo_key) as client:
        plain = await client.messages.create(model=ENDPOINT, extra_body={"temperature": 0}, **less(asked))
        async with client.messages.stream(
            model=ENDPOINT, extra_body={"temperature": 0}, **less(asked)
        ) as stream:
            streamed = await stream.get_final_message()
        counted = await client.messages.count_tokens(model=ENDPOINT, messages=asked["messages"])
    (wanted,) = own.content
    for each in (plain, streamed):
        (said,) = each.content
        assert said.to_dict()["text"] == wanted.to_dict()["text"]
        assert (each.stop_reason, each.model) == (own.stop_reason, "mixtral-demo")
        assert (each.usage.input_tokens, each.usage.output_tokens) == (
            own.usage.input_tokens,
            own.usage.output_tokens,
        )
    assert counted.input_tokens == own.usage.input_tokens


def less(asked: dict[str, Any]) -> dict[str, Any]:
    """What Anthropic's client takes as it is."""
    return {name: value for name, value in asked.items() if name != "temperature"}


async def test_the_announcements_code_prints_an_answer(
    gateway: Deployment, as_user: Callable[..., None]
) -> None:
    as_user()

    def announced() -> str:
        import mlflow.deployments

        client = mlflow.deployments.get_deploy_client("databricks")
        response = client.predict(
            endpoint="databricks-mixtral-8x7b-instruct",
            inputs={
                "messages": [{"role": "user", "content": "What is a mixture of experts model?"}],
                "max_tokens": 64,
                "temperature": 0,
            },
        )
        return response["choices"][0]["message"]["content"]

    assert (await asyncio.to_thread(announced)).strip()


async def test_a_prompt_longer_than_the_models_context_is_a_bad_request(gateway: Deployment) -> None:
    answer = await gateway.ask("POST", CHAT, chat("word " * 6000, max_tokens=10), key=gateway.keys["bulk"])
    assert (answer.status, answer.code) == (400, "context_length_exceeded")
    row = await gateway.row_of(answer.request_id)
    assert (row["status"], row["cost_nano_usd"]) == ("error", 0)
