"""The official `openai` client's `responses`, unmodified: answers, events in order, and the right exception class."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.faults.upstream import Upstream
from tests.system.deployment import ENDPOINT, Deployment, Person, limit

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASK = "[[tokens=12 delay=1ms]]"
SAID = " ".join(f"w{n}" for n in range(1, 13))
TOOLS: list[Any] = [
    {"type": "function", "name": name, "parameters": {"type": "object", "properties": {}}, "strict": False}
    for name in ("look", "find")
]


@pytest.fixture(scope="module")
def people() -> dict[str, Person]:
    return {
        "poor": Person((limit("requests", 0),)),
        "short": Person((limit("output_tokens", 40),)),
    }


@pytest.fixture(params=["/v1", "/serving-endpoints"])
def client(gateway: Deployment, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """A client as a user, on either tree of paths."""

    def make(name: str = "demo", key: str | None = None) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=gateway.url + request.param, api_key=key or gateway.keys[name], max_retries=0, timeout=20
        )

    return make


def direct(gateway: Deployment, key: str) -> Any:
    """A client on OpenAI's own paths."""
    return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0, timeout=20)


async def events_of(ours: Any, **asked: Any) -> list[Any]:
    """Every event of a stream, in numbers that have no gap."""
    found = [each async for each in await ours.responses.create(model=ENDPOINT, stream=True, **asked)]
    assert [each.sequence_number for each in found] == list(range(len(found)))
    return found


async def test_a_plain_call_answers_with_the_models_true_name_usage_and_a_row(
    client: Callable[..., Any], gateway: Deployment, upstream: Upstream
) -> None:
    async with client() as ours:
        answer = await ours.responses.create(
            model=ENDPOINT,
            input=ASK,
            instructions="Be brief.",
            max_output_tokens=20,
            metadata={"team": "a"},
            store=False,
        )
    assert (answer.output_text, answer.status, answer.model) == (SAID, "completed", "mixtral-demo")
    assert (answer.instructions, answer.metadata, answer.max_output_tokens) == (
        "Be brief.",
        {"team": "a"},
        20,
    )
    assert answer.usage is not None
    assert answer.usage.output_tokens == 12
    assert answer.usage.total_tokens == answer.usage.input_tokens + 12
    assert answer._request_id is not None
    row = await gateway.row_of(answer._request_id)
    assert row["api"] in ("openai.responses", "databricks.responses")
    assert (row["status"], row["completion_tokens"], row["prompt_tokens"]) == (
        "ok",
        12,
        answer.usage.input_tokens,
    )
    sent = upstream.received[-1]
    assert sent.path == "/v1/chat/completions"
    assert b"metadata" not in sent.body
    assert b'"store"' not in sent.body


async def test_a_stream_tells_its_events_in_order_and_adds_up_to_the_plain_answer(
    client: Callable[..., Any], gateway: Deployment
) -> None:
    asked: dict[str, Any] = {"input": [{"role": "user", "content": [{"type": "input_text", "text": ASK}]}]}
    async with client() as ours:
        plain = await ours.responses.create(model=ENDPOINT, **asked)
        events = await events_of(ours, **asked)
    kinds = [each.type for each in events]
    deltas = kinds.count("response.output_text.delta")
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * deltas,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(each.delta for each in events if each.type == "response.output_text.delta") == SAID
    ended = events[-1].response
    assert (ended.output_text, ended.usage) == (plain.output_text, plain.usage)
    async with client() as ours, ours.responses.stream(model=ENDPOINT, input=ASK) as stream:
        final = await stream.get_final_response()
    assert final.output_text == SAID


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_tools_are_called_in_parallel_and_their_results_are_understood(
    client: Callable[..., Any], upstream: Upstream, stream: bool
) -> None:
    first = [{"role": "user", "content": "[[tools=2]]"}]
    async with client() as ours:
        if stream:
            events = await events_of(ours, input=first, tools=TOOLS)
            output = events[-1].response.output
            begun = [each.item.name for each in events if each.type == "response.output_item.added"]
            assert begun == ["look", "find"]
            written = [each for each in events if each.type == "response.function_call_arguments.done"]
            assert [each.arguments for each in written] == [each.arguments for each in output]
        else:
            output = (await ours.responses.create(model=ENDPOINT, input=first, tools=TOOLS)).output
        assert [(each.type, each.name) for each in output] == [
            ("function_call", "look"),
            ("function_call", "find"),
        ]
        results = [
            {"type": "function_call_output", "call_id": each.call_id, "output": "seen"} for each in output
        ]
        again = await ours.responses.create(
            model=ENDPOINT,
            input=[
                *first,
                *(each.model_dump() for each in output),
                *results,
                {"role": "user", "content": ASK},
            ],
            tools=TOOLS,
        )
    assert again.output_text == SAID
    sent = upstream.received[-1].body
    assert sent.count(b'"role":"tool"') == 2
    assert sent.count(b'"tool_calls"') == 1


async def test_a_tool_can_be_forced(client: Callable[..., Any]) -> None:
    async with client() as ours:
        for choice in ("required", {"type": "function", "name": "look"}):
            answer = await ours.responses.create(model=ENDPOINT, input=ASK, tools=TOOLS, tool_choice=choice)
            assert [each.name for each in answer.output] == ["look"]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_custom_tool_is_called_with_a_text_and_its_result_goes_back(
    client: Callable[..., Any], upstream: Upstream, stream: bool
) -> None:
    grammar = {"type": "grammar", "syntax": "regex", "definition": r"\*\*\*.*"}
    tools: list[Any] = [{"type": "custom", "name": "apply_patch", "description": "Edits.", "format": grammar}]
    asked: dict[str, Any] = {"tools": tools, "tool_choice": {"type": "custom", "name": "apply_patch"}}
    first = [{"role": "user", "content": ASK}]
    async with client() as ours:
        if stream:
            events = await events_of(ours, input=first, **asked)
            (call,) = events[-1].response.output
            said = [each.delta for each in events if each.type == "response.custom_tool_call_input.delta"]
            assert "".join(said) == call.input
        else:
            (call,) = (await ours.responses.create(model=ENDPOINT, input=first, **asked)).output
        assert (call.type, call.name) == ("custom_tool_call", "apply_patch")
        assert call.input.startswith("{"), "the engine's stand-in writes its own arguments: told as written"
        result = {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "Done!"}
        more = [*first, call.model_dump(), result, {"role": "user", "content": ASK}]
        assert (await ours.responses.create(model=ENDPOINT, input=more, tools=tools)).output_text == SAID
    sent = json.loads(upstream.received[-1].body)
    assert sent["tools"][0]["function"]["parameters"]["required"] == ["input"]
    told = next(each for each in sent["messages"] if each.get("tool_calls"))
    assert json.loads(told["tool_calls"][0]["function"]["arguments"]) == {"input": call.input}


class Shape(BaseModel):
    """What the model has to answer."""

    a: int


async def test_an_answer_has_the_schema_that_was_asked_for(client: Callable[..., Any]) -> None:
    async with client() as ours:
        answer = await ours.responses.parse(model=ENDPOINT, input="?", text_format=Shape)
        assert answer.output_parsed == Shape(a=1)
        async with ours.responses.stream(model=ENDPOINT, input="?", text_format=Shape) as stream:
            final = await stream.get_final_response()
        assert final.output_parsed == Shape(a=1)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_an_answer_that_is_cut_for_its_length_is_incomplete(
    client: Callable[..., Any], stream: bool
) -> None:
    async with client() as ours:
        asked: dict[str, Any] = {"input": "[[tokens=12]]", "max_output_tokens": 5}
        if stream:
            events = await events_of(ours, **asked)
            assert events[-1].type == "response.incomplete"
            answer = events[-1].response
        else:
            answer = await ours.responses.create(model=ENDPOINT, **asked)
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output_text == "w1 w2 w3 w4 w5"
    assert answer.usage.output_tokens == 5


async def test_a_limit_ends_a_stream_as_incomplete_and_says_which(
    gateway: Deployment,
) -> None:
    async with direct(gateway, gateway.keys["short"]) as ours:
        events = await events_of(ours, input="[[tokens=200 delay=2ms]]")
    ended = events[-1]
    assert ended.type == "response.incomplete"
    assert ended.response.incomplete_details.reason == "max_output_tokens"
    assert ended.response.weighbridge["stopped_by"] == "limit"
    assert sum(each.type == "response.output_item.done" for each in events) == 1
    assert 0 < ended.response.usage.output_tokens <= 40


@pytest.mark.parametrize("fault", ["reset", "close", "error_event"])
async def test_a_stream_that_breaks_ends_with_one_event_that_says_so(
    client: Callable[..., Any], gateway: Deployment, fault: str
) -> None:
    async with client() as ours:
        events = await events_of(
            ours, input=f"[[tokens=20 delay=1ms fault={fault} at=5]]", extra_body={"user": fault}
        )
    kinds = [each.type for each in events]
    assert kinds[-1] == "response.failed"
    assert (
        sum(each in ("response.completed", "response.incomplete", "response.failed") for each in kinds) == 1
    )
    failed = events[-1].response
    assert failed.status == "failed"
    assert failed.error.code == "server_error"
    assert "middle of its answer" in failed.error.message
    await gateway.drained()
    rows = await gateway.query(
        "SELECT status, completion_tokens FROM gateway.requests WHERE end_user = $1", fault
    )
    assert {row["status"] for row in rows} == {"error"}
    assert all(0 < row["completion_tokens"] <= 6 for row in rows)


async def test_a_client_that_leaves_is_settled_as_cut(gateway: Deployment) -> None:
    async with direct(gateway, gateway.demo_key) as ours:
        stream = await ours.responses.create(model=ENDPOINT, input="[[tokens=400 delay=20ms]]", stream=True)
        request_id = stream.response.headers["x-request-id"]
        async for event in stream:
            if event.type == "response.output_text.delta":
                break
        await stream.close()
    row = await gateway.row_of(request_id)
    assert (row["status"], row["stopped_by"]) == ("cut", "client")
    assert 0 < row["completion_tokens"] < 400


async def test_refusals_are_the_sdks_own_classes(client: Callable[..., Any]) -> None:
    async with client(key="gk_live_wrong") as ours:
        with pytest.raises(openai.AuthenticationError):
            await ours.responses.create(model=ENDPOINT, input=ASK)
    async with client("stranger") as ours:
        with pytest.raises(openai.PermissionDeniedError):
            await ours.responses.create(model=ENDPOINT, input=ASK)
    async with client() as ours:
        with pytest.raises(openai.NotFoundError):
            await ours.responses.create(model="gpt-99", input=ASK)
        with pytest.raises(openai.InternalServerError):
            await ours.responses.create(model=ENDPOINT, input="[[fail=500]]")
        with pytest.raises(openai.InternalServerError):
            await ours.responses.create(model=ENDPOINT, input="[[fail=500]]", stream=True)
    async with client("poor") as ours:
        with pytest.raises((openai.RateLimitError, openai.PermissionDeniedError)):
            await ours.responses.create(model=ENDPOINT, input=ASK)


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"input": ASK, "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": ASK, "background": True}, "background"),
        ({"input": ASK, "conversation": "conv_1"}, "conversation"),
        ({"input": ASK, "tools": [{"type": "web_search"}]}, "web_search"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": ASK, "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": ASK, "temperature": 9}, "temperature"),
        ({"input": ASK, "text": {"verbosity": "low"}}, "text.verbosity"),
        ({"input": ASK, "extra_body": {"chat_template": "x"}}, "chat_template"),
        ({"input": ASK, "extra_body": {"best_effort": 1}}, "best_effort"),
        (
            {
                "input": [
                    {
                        "role": "user",
                        "content": [{"type": "input_image", "image_url": "https://127.0.0.1/a.png"}],
                    }
                ]
            },
            "image_url",
        ),
        ({"input": ASK, "stream_options": {"include_obfuscation": False}}, "stream_options"),
    ],
)
async def test_what_cannot_be_done_is_a_bad_request_that_names_it(
    client: Callable[..., Any], upstream: Upstream, asked: dict[str, Any], word: str
) -> None:
    before = len(upstream.records)
    async with client() as ours:
        with pytest.raises(openai.BadRequestError) as caught:
            await ours.responses.create(model=ENDPOINT, **asked)
    assert word in caught.value.message
    assert len(upstream.records) == before


async def test_what_a_coding_agent_sends_with_every_call_is_taken(gateway: Deployment) -> None:
    body = {
        "model": ENDPOINT,
        "instructions": "You are a coding agent.",
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Rules."}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Context."}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": ASK}]},
        ],
        "tools": [{**TOOLS[0], "description": "Runs a command."}],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": None,
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "0198a5c2-agent",
        "client_metadata": {"installation": "x"},
    }
    answer = await asyncio.wait_for(
        gateway.ask("POST", "/v1/responses", body, key=gateway.demo_key), timeout=20
    )
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert b"[DONE]" not in answer.body
    assert answer.body.count(b"event: response.completed\n") == 1
