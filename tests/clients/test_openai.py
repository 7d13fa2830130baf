"""The official `openai` client, unmodified: answers, streams, and the right exception class for every refusal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import openai
import pytest

from gateway.seed import SQL_ENDPOINT
from tests.faults.upstream import Upstream
from tests.system.deployment import ENDPOINT, Deployment, Person, chat, limit

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASK = [{"role": "user", "content": "[[tokens=12 delay=1ms]]"}]


@pytest.fixture(scope="module")
def people() -> dict[str, Person]:
    return {
        "poor": Person((limit("requests", 0),)),
        "daily": Person((limit("requests", 0, window_ms=86_400_000),)),
    }


@pytest.fixture(params=["/v1", "/serving-endpoints"])
def client(gateway: Deployment, request: pytest.FixtureRequest) -> Callable[..., openai.AsyncOpenAI]:
    """A client as a user, on either tree of paths."""

    def make(name: str = "demo", key: str | None = None) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=gateway.url + request.param, api_key=key or gateway.keys[name], max_retries=0, timeout=20
        )

    return make


async def test_a_plain_call_answers_with_the_models_true_name_usage_and_a_request_id(
    client: Callable[..., openai.AsyncOpenAI], gateway: Deployment
) -> None:
    async with client() as ours:
        answer = await ours.chat.completions.create(model=ENDPOINT, messages=ASK, max_tokens=20)
    assert answer.choices[0].message.content == " ".join(f"w{n}" for n in range(1, 13))
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "mixtral-demo"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    assert answer._request_id is not None
    row = await gateway.row_of(answer._request_id)
    assert row["completion_tokens"] == 12
    assert row["principal_name"] == "demo"


async def test_a_stream_gives_usage_only_to_those_who_asked(
    client: Callable[..., openai.AsyncOpenAI],
) -> None:
    async with client() as ours:
        plain = [
            chunk
            async for chunk in await ours.chat.completions.create(
                model=ENDPOINT, messages=ASK, max_tokens=20, stream=True
            )
        ]
        counted = [
            chunk
            async for chunk in await ours.chat.completions.create(
                model=ENDPOINT,
                messages=ASK,
                max_tokens=20,
                stream=True,
                stream_options={"include_usage": True},
            )
        ]
    assert all(chunk.choices and chunk.usage is None for chunk in plain)
    assert plain[0].choices[0].delta.role == "assistant"
    assert plain[-1].choices[0].finish_reason == "stop"
    said = "".join(chunk.choices[0].delta.content or "" for chunk in plain)
    assert said == " ".join(f"w{n}" for n in range(1, 13))
    assert len({chunk.id for chunk in plain}) == 1
    assert counted[-1].choices == []
    assert counted[-1].usage is not None
    assert counted[-1].usage.completion_tokens == 12


async def test_text_completions_answer_plain_and_streamed(client: Callable[..., openai.AsyncOpenAI]) -> None:
    async with client() as ours:
        answer = await ours.completions.create(model=ENDPOINT, prompt="[[tokens=3]]", max_tokens=5)
        assert answer.choices[0].text == "w1 w2 w3"
        chunks = [
            chunk
            async for chunk in await ours.completions.create(
                model=ENDPOINT, prompt="[[tokens=3]]", max_tokens=5, stream=True
            )
        ]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "w1 w2 w3"


async def test_tools_and_formats_reach_the_model(client: Callable[..., openai.AsyncOpenAI]) -> None:
    tool = {
        "type": "function",
        "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
    }
    async with client() as ours:
        answer = await ours.chat.completions.create(
            model=ENDPOINT, messages=ASK, max_tokens=50, tools=[tool], tool_choice="required"
        )
        assert answer.choices[0].finish_reason == "tool_calls"
        calls = answer.choices[0].message.tool_calls
        assert calls is not None
        assert calls[0].function.name == "look"
        formatted = await ours.chat.completions.create(
            model=ENDPOINT,
            messages=ASK,
            max_tokens=50,
            response_format={
                "type": "json_schema",
                "json_schema": {
                    "name": "x",
                    "strict": True,
                    "schema": {"type": "object", "properties": {"a": {"type": "integer"}}},
                },
            },
        )
    assert formatted.choices[0].message.content == '{"a":1}'


async def test_a_wrong_key_is_an_authentication_error(client: Callable[..., openai.AsyncOpenAI]) -> None:
    async with client(key="gk_live_wrong") as ours:
        with pytest.raises(openai.AuthenticationError) as caught:
            await ours.chat.completions.create(model=ENDPOINT, messages=ASK)
    assert "Incorrect API key provided" in caught.value.message
    assert caught.value.request_id


async def test_an_endpoint_without_the_grant_is_permission_denied(
    client: Callable[..., openai.AsyncOpenAI],
) -> None:
    async with client("stranger") as ours:
        with pytest.raises(openai.PermissionDeniedError) as caught:
            await ours.chat.completions.create(model=ENDPOINT, messages=ASK)
    assert "CAN_QUERY" in caught.value.message


async def test_an_unknown_model_is_not_found(client: Callable[..., openai.AsyncOpenAI]) -> None:
    async with client() as ours:
        with pytest.raises(openai.NotFoundError) as caught:
            await ours.chat.completions.create(model="gpt-99", messages=ASK)
    assert "gpt-99" in caught.value.message


async def test_a_limit_that_resets_soon_is_a_rate_limit_error_worth_retrying(
    client: Callable[..., openai.AsyncOpenAI],
) -> None:
    async with client("poor") as ours:
        with pytest.raises((openai.RateLimitError, openai.PermissionDeniedError)) as caught:
            await ours.chat.completions.create(model=ENDPOINT, messages=ASK)
    assert "left" in caught.value.message


async def test_a_limit_that_resets_tomorrow_is_not_retried(gateway: Deployment, upstream: Upstream) -> None:
    seen = 0
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.keys["daily"]) as ours:
        with pytest.raises(openai.RateLimitError) as caught:
            async with asyncio.timeout(5):
                await ours.chat.completions.create(model=ENDPOINT, messages=ASK)
    assert caught.value.code == "insufficient_quota"
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert "retry-after" not in caught.value.response.headers
    assert seen == 0


async def test_a_bad_parameter_is_a_bad_request(client: Callable[..., openai.AsyncOpenAI]) -> None:
    async with client() as ours:
        with pytest.raises(openai.BadRequestError):
            await ours.chat.completions.create(model=ENDPOINT, messages=ASK, max_tokens=-1)
        with pytest.raises(openai.BadRequestError):
            await ours.chat.completions.create(
                model=ENDPOINT, messages=ASK, extra_body={"chat_template": "x"}
            )


async def test_an_upstream_that_fails_is_an_internal_server_error_and_mid_stream_an_api_error(
    client: Callable[..., openai.AsyncOpenAI],
) -> None:
    async with client() as ours:
        with pytest.raises(openai.InternalServerError):
            await ours.chat.completions.create(
                model=ENDPOINT, messages=[{"role": "user", "content": "[[fail=500]]"}], max_tokens=5
            )
        broken = [{"role": "user", "content": "[[tokens=20 delay=1ms fault=reset at=5]]"}]
        with pytest.raises(openai.APIError):
            async for _ in await ours.chat.completions.create(
                model=ENDPOINT, messages=broken, max_tokens=20, stream=True
            ):
                pass


async def test_models_are_those_that_the_caller_may_query(gateway: Deployment) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.demo_key) as ours:
        assert {model.id async for model in await ours.models.list()} == {ENDPOINT, SQL_ENDPOINT}
        model = await ours.models.retrieve(ENDPOINT)
        assert (model.id, model.object) == (ENDPOINT, "model")
        with pytest.raises(openai.NotFoundError):
            await ours.models.retrieve("gpt-99")
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.keys["stranger"]) as ours:
        assert [model.id async for model in await ours.models.list()] == []


async def test_an_azure_style_key_header_is_taken(gateway: Deployment) -> None:
    answer = await gateway.ask(
        "POST", "/v1/chat/completions", chat("[[tokens=1]]"), headers=[("api-key", gateway.demo_key)]
    )
    assert answer.status == 200
