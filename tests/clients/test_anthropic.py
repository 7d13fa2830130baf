"""The official `anthropic` client, unmodified: messages, streams, tools, counts, and the right class for every refusal."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import anthropic
import pytest
from anthropic.types import RawMessageStreamEvent

from gateway.seed import SQL_ENDPOINT
from tests.faults.upstream import Upstream
from tests.system.deployment import ENDPOINT, Deployment, Person, limit

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORDS = " ".join(f"w{n}" for n in range(1, 13))
TOOLS: list[Any] = [
    {
        "name": name,
        "description": f"Look for {name}.",
        "input_schema": {"type": "object", "properties": {"query": {"type": "string"}}},
    }
    for name in ("look", "find")
]
Client = Callable[..., anthropic.AsyncAnthropic]


def ask(text: str = "[[tokens=12 delay=1ms]]", **more: Any) -> dict[str, Any]:
    """The arguments of a call."""
    return {"model": ENDPOINT, "max_tokens": 50, "messages": [{"role": "user", "content": text}], **more}


@pytest.fixture(scope="module")
def people() -> dict[str, Person]:
    return {
        "poor": Person((limit("requests", 1),)),
        "daily": Person((limit("requests", 0, window_ms=86_400_000),)),
        "sparing": Person((limit("output_tokens", 40, window_ms=86_400_000),)),
        "counting": Person((limit("requests", 1, window_ms=86_400_000),)),
    }


@pytest.fixture
def client(gateway: Deployment) -> Client:
    """A client as a user."""

    def make(name: str = "demo", key: str | None = None, retries: int = 0) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(
            base_url=gateway.url, api_key=key or gateway.keys[name], max_retries=retries, timeout=20
        )

    return make


async def streamed(ours: anthropic.AsyncAnthropic, **asked: Any) -> list[RawMessageStreamEvent]:
    """The events of a stream."""
    return [event async for event in await ours.messages.create(**asked, stream=True)]


async def test_a_message_has_text_usage_and_a_request_id_that_finds_its_row(
    client: Client, gateway: Deployment
) -> None:
    async with client() as ours:
        answer = await ours.messages.create(**ask(metadata={"user_id": "claude"}))
    assert [block.type for block in answer.content] == ["text"]
    assert answer.content[0].text == WORDS  # pyright: ignore
    assert (answer.stop_reason, answer.model, answer.role) == ("end_turn", "mixtral-demo", "assistant")
    assert answer.id.startswith("msg_")
    assert answer.usage.output_tokens == 12
    row = await gateway.row_of(answer._request_id or "")
    assert (row["api"], row["status"], row["end_user"]) == ("anthropic.messages", "ok", "claude")
    assert row["completion_tokens"] == 12
    assert row["prompt_tokens"] == answer.usage.input_tokens


async def test_a_stream_has_the_events_in_their_order_and_assembles_to_the_plain_message(
    client: Client, gateway: Deployment
) -> None:
    async with client() as ours:
        plain = await ours.messages.create(**ask())
        events = await streamed(ours, **ask())
        async with ours.messages.stream(**ask()) as stream:
            final = await stream.get_final_message()
            request_id = stream.response.headers["request-id"]
    kinds = [event.type for event in events]
    assert kinds == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 12,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start = events[0]
    assert start.type == "message_start"
    assert start.message.usage.input_tokens == plain.usage.input_tokens
    assert final.content == plain.content or final.content[0].text == WORDS  # pyright: ignore
    assert (final.stop_reason, final.usage.output_tokens) == (plain.stop_reason, 12)
    assert final.usage.input_tokens == plain.usage.input_tokens
    row = await gateway.row_of(request_id)
    assert (row["stream"], row["completion_tokens"], row["usage_source"]) == (True, 12, "reported")


async def test_max_tokens_ends_an_answer_and_is_said(client: Client) -> None:
    async with client() as ours:
        answer = await ours.messages.create(**ask(max_tokens=5))
        assert (answer.stop_reason, answer.usage.output_tokens) == ("max_tokens", 5)
        async with ours.messages.stream(**ask(max_tokens=5)) as stream:
            final = await stream.get_final_message()
    assert (final.stop_reason, final.usage.output_tokens) == ("max_tokens", 5)


async def test_tools_are_called_forced_at_once_and_their_results_go_back(
    client: Client, upstream: Upstream
) -> None:
    async with client() as ours:
        forced = await ours.messages.create(**ask(tools=TOOLS, tool_choice={"type": "tool", "name": "find"}))
        assert forced.stop_reason == "tool_use"
        (call,) = forced.content
        assert (call.type, call.name, call.input) == ("tool_use", "find", {"query": "q0", "limit": 0})  # pyright: ignore
        single = {"type": "any", "disable_parallel_tool_use": True}
        one = await ours.messages.create(**ask("[[tools=2]]", tools=TOOLS, tool_choice=single))
        assert len(one.content) == 1
        both = ask("[[tools=2]]", tools=TOOLS)
        plain = await ours.messages.create(**both)
        async with ours.messages.stream(**both) as stream:
            final = await stream.get_final_message()
        told = [(block.type, block.name, block.input) for block in plain.content]  # pyright: ignore
        assert told == [
            ("tool_use", "look", {"query": "q0", "limit": 0}),
            ("tool_use", "find", {"query": "q1", "limit": 1}),
        ]
        assert [(block.type, block.name, block.input) for block in final.content] == told  # pyright: ignore
        assert final.stop_reason == plain.stop_reason == "tool_use"
        results: list[Any] = [
            {"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": "7"}]}  # pyright: ignore
            for block in plain.content
        ]
        more = {
            "messages": [
                {"role": "user", "content": "[[tokens=2]]"},
                {"role": "assistant", "content": [block.model_dump() for block in plain.content]},
                {"role": "user", "content": [*results, {"type": "text", "text": "[[tokens=3]]"}]},
            ]
        }
        answer = await ours.messages.create(**{**both, **more}, system="Be brief.")
    assert answer.content[0].text == "w1 w2 w3"  # pyright: ignore
    asked = upstream.received[-1]
    assert asked.path == "/v1/chat/completions"
    assert b'"role":"tool"' in asked.body
    assert b'"content":"Be brief."' in asked.body


async def test_an_answer_of_a_schema_is_parsed(client: Client) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    async with client() as ours:
        answer = await ours.messages.create(
            **ask(output_config={"format": {"type": "json_schema", "schema": schema}})
        )
    assert answer.content[0].text == '{"a":1}'  # pyright: ignore


async def test_a_count_is_the_engines_own_costs_nothing_and_is_limited_like_a_call(
    client: Client, gateway: Deployment
) -> None:
    asked = {"model": ENDPOINT, "messages": [{"role": "user", "content": "one two three four"}]}
    async with client("counting") as ours:
        counted = await ours.messages.with_raw_response.count_tokens(**asked, system="five six")
        assert (await counted.parse()).input_tokens == 6
        with pytest.raises(anthropic.RateLimitError):
            await ours.messages.count_tokens(**asked)
    row = await gateway.row_of(counted.headers["request-id"])
    assert (row["api"], row["status"], row["attempts"]) == ("anthropic.count_tokens", "ok", 0)
    assert (row["prompt_tokens"], row["completion_tokens"], row["cost_nano_usd"]) == (0, 0, 0)
    async with client("stranger") as theirs:
        with pytest.raises(anthropic.PermissionDeniedError):
            await theirs.messages.count_tokens(**asked)


@pytest.mark.parametrize("stream", [False, True])
async def test_every_refusal_is_of_its_own_class_with_a_request_id(client: Client, stream: bool) -> None:
    cases: list[tuple[type[anthropic.APIStatusError], str, dict[str, Any], str]] = [
        (anthropic.AuthenticationError, "wrong", {}, "authentication_error"),
        (anthropic.PermissionDeniedError, "stranger", {}, "permission_error"),
        (anthropic.NotFoundError, "demo", {"model": "claude-99"}, "not_found_error"),
        (anthropic.BadRequestError, "demo", {"max_tokens": 0}, "invalid_request_error"),
        (anthropic.BadRequestError, "demo", {"extra_body": {"chat_template": "x"}}, "invalid_request_error"),
        (anthropic.BadRequestError, "demo", {"extra_body": {"mcp_servers": []}}, "invalid_request_error"),
        (
            anthropic.BadRequestError,
            "demo",
            {"extra_body": {"context_management": {}}},
            "invalid_request_error",
        ),
        (
            anthropic.BadRequestError,
            "demo",
            ask([{"type": "document", "source": {}}]),
            "invalid_request_error",
        ),  # pyright: ignore
        (anthropic.RateLimitError, "poor", {}, "rate_limit_error"),
        (anthropic.RateLimitError, "daily", {}, "rate_limit_error"),
        (anthropic.InternalServerError, "demo", ask("[[fail=500]]"), "api_error"),
        (anthropic.ContentTooLargeError, "demo", ask("x" * (4 << 20)), "request_too_large"),
    ]
    async with client("poor") as ours:
        with contextlib.suppress(anthropic.RateLimitError):
            await ours.messages.create(**ask())
    for kind, who, asked, told in cases:
        key = "gk_live_wrong" if who == "wrong" else None
        async with client("demo" if key else who, key=key) as ours:
            with pytest.raises(kind) as caught:
                await ours.messages.create(**{**ask(), **asked}, stream=stream)
        body: Any = caught.value.body
        assert (body["type"], body["error"]["type"]) == ("error", told), caught.value
        assert body["request_id"] == caught.value.request_id == caught.value.response.headers["request-id"]
        headers = caught.value.response.headers
        if who == "poor":
            assert 0 < int(headers["retry-after"]) <= 60
        if who == "daily":
            assert "retry-after" not in headers
            assert headers["x-should-retry"] == "false"


async def test_a_limit_of_tomorrow_is_not_retried_by_the_client(client: Client) -> None:
    async with client("daily", retries=2) as ours:
        with pytest.raises(anthropic.RateLimitError):
            async with asyncio.timeout(5):
                await ours.messages.create(**ask())


async def test_a_stream_that_breaks_is_an_error_and_never_a_whole_message(client: Client) -> None:
    async with client() as ours:
        with pytest.raises(anthropic.APIStatusError) as caught:
            await streamed(ours, **ask("[[tokens=20 delay=1ms fault=reset at=5]]"))
    body: Any = caught.value.body
    assert body["error"]["type"] == "api_error"
    assert "not complete" in body["error"]["message"]


async def test_a_limit_that_is_used_up_in_a_stream_ends_it_as_max_tokens(
    client: Client, gateway: Deployment
) -> None:
    async with client("sparing") as ours:
        async with ours.messages.stream(**ask("[[tokens=200 delay=1ms]]", max_tokens=200)) as stream:
            final = await stream.get_final_message()
            request_id = stream.response.headers["request-id"]
    assert (final.stop_reason, final.usage.output_tokens) == ("max_tokens", 40)
    assert final.content[0].text.split()[-1] == "w40"  # pyright: ignore
    row = await gateway.row_of(request_id)
    assert (row["status"], row["completion_tokens"], row["error_code"]) == ("cut", 40, "limit_reached")


async def test_a_client_that_leaves_is_charged_for_what_it_got(client: Client, gateway: Deployment) -> None:
    async with client() as ours:
        response = await ours.messages.create(
            **ask("[[tokens=2000 delay=5ms]]", max_tokens=2000), stream=True
        )
        request_id = response.response.headers["request-id"]
        seen = 0
        async for _ in response:
            seen += 1
            if seen == 6:
                break
        await response.close()
    row = await gateway.row_of(request_id)
    assert (row["status"], row["stopped_by"]) == ("cut", "client")
    assert 4 <= row["completion_tokens"] < 2000


async def test_models_come_in_anthropics_shape_to_its_client(client: Client, gateway: Deployment) -> None:
    async with client() as ours:
        assert {model.id async for model in ours.models.list()} == {ENDPOINT, SQL_ENDPOINT}
        model = await ours.models.retrieve(ENDPOINT)
        assert (model.id, model.type) == (ENDPOINT, "model")
        with pytest.raises(anthropic.NotFoundError):
            await ours.models.retrieve("claude-99")
    told = await gateway.ask(
        "GET", "/v1/models", key=gateway.demo_key, headers=[("anthropic-version", "2023-06-01")]
    )
    assert set(told.json()) == {"data", "has_more", "first_id", "last_id"}
    assert set(told.json()["data"][0]) == {"id", "type", "display_name", "created_at"}


async def test_what_claude_code_sends_is_answered(gateway: Deployment) -> None:
    marked = {"cache_control": {"type": "ephemeral"}}
    body = {
        "model": ENDPOINT,
        "max_tokens": 32_000,
        "system": [{"type": "text", "text": "You are a coding agent.", **marked}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "[[tokens=3]]", **marked}]},
            {"role": "system", "content": [{"type": "text", "text": "The file has changed.", **marked}]},
        ],
        "tools": [{**TOOLS[0], **marked}],
        "metadata": {"user_id": "user_1_account__session_2"},
        "thinking": {"type": "adaptive"},
        "stream": True,
    }
    answer = await gateway.ask(
        "POST",
        "/v1/messages?beta=true",
        body,
        headers=[
            ("x-api-key", gateway.demo_key),
            ("anthropic-version", "2023-06-01"),
            ("anthropic-beta", "claude-code-20250219,interleaved-thinking-2025-05-14"),
        ],
    )
    assert answer.status == 200, answer.body
    assert answer.body.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
    assert answer.body.count(b"event: message_stop") == 1
