"""The official `openai.AzureOpenAI`, unmodified: its paths, its `api-key` header, streams, and its classes of errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import openai
import pytest

from gateway.http.openai.azure import called
from tests.faults.upstream import Upstream
from tests.system.deployment import ENDPOINT, Deployment, Person, limit

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASK = [{"role": "user", "content": "[[tokens=12 delay=1ms]]"}]
SAID = " ".join(f"w{n}" for n in range(1, 13))
VECTORS = "vectors"


@pytest.fixture(scope="module")
def people() -> dict[str, Person]:
    return {
        "poor": Person((limit("requests", 1, window_ms=30_000),)),
        "daily": Person((limit("requests", 0, window_ms=86_400_000),)),
    }


@pytest.fixture
def client(gateway: Deployment) -> Callable[..., openai.AsyncAzureOpenAI]:
    """Azure's client as a user."""

    def make(name: str = "demo", key: str | None = None, **more: str) -> openai.AsyncAzureOpenAI:
        return openai.AsyncAzureOpenAI(
            azure_endpoint=gateway.url,
            api_key=key or gateway.keys[name],
            api_version="2024-10-21",
            max_retries=0,
            timeout=20,
            **more,
        )

    return make


async def test_a_chat_answers_plain_and_streamed_and_the_books_say_whose_way_in_it_was(
    client: Callable[..., openai.AsyncAzureOpenAI], gateway: Deployment
) -> None:
    async with client() as ours:
        raw = await ours.chat.completions.with_raw_response.create(
            model=ENDPOINT, messages=ASK, max_tokens=20
        )
        assert raw.http_request.url.path == f"/openai/deployments/{ENDPOINT}/chat/completions"
        assert raw.http_request.url.query == b"api-version=2024-10-21"
        assert raw.http_request.headers["api-key"] == gateway.demo_key
        answer = raw.parse()
        assert answer.choices[0].message.content == SAID
        assert answer.model == "mixtral-demo"
        row = await gateway.row_of(raw.headers["x-request-id"])
        assert (row["api"], row["endpoint_name"], row["completion_tokens"]) == ("azure.chat", ENDPOINT, 12)
        chunks = [
            chunk
            async for chunk in await ours.chat.completions.create(
                model=ENDPOINT,
                messages=ASK,
                max_tokens=20,
                stream=True,
                stream_options={"include_usage": True},
            )
        ]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == SAID
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 12


async def test_a_deployment_named_once_needs_no_model_that_is_right(
    client: Callable[..., openai.AsyncAzureOpenAI],
) -> None:
    async with client(azure_deployment=ENDPOINT) as ours:
        answer = await ours.chat.completions.create(model="gpt-4o", messages=ASK, max_tokens=20)
    assert answer.choices[0].message.content == SAID


async def test_completions_embeddings_and_responses_are_reached(
    client: Callable[..., openai.AsyncAzureOpenAI], gateway: Deployment, upstream: Upstream
) -> None:
    made = await gateway.administer(
        "POST",
        "/endpoints/",
        {
            "name": VECTORS,
            "task": "llm/v1/embeddings",
            "served_entities": [{"name": "e", "kind": "local", "provider": "vllm", "model": "mixtral-demo"}],
        },
    )
    (user,) = (await gateway.administer("GET", "/users?name=demo"))["items"]
    grant = {"grantee_kind": "user", "grantee_id": user["id"], "level": "CAN_QUERY"}
    await gateway.administer("PUT", f"/endpoints/{made['id']}/grants", grant)
    async with client() as ours:
        text = await ours.completions.create(model=ENDPOINT, prompt="[[tokens=3]]", max_tokens=5)
        assert text.choices[0].text == "w1 w2 w3"
        found = await ours.embeddings.create(model=VECTORS, input=["one", "two"])
        assert [each.index for each in found.data] == [0, 1]
        response = await ours.responses.create(
            model=ENDPOINT, input="[[tokens=3]]", max_output_tokens=20, store=False
        )
        assert response.output_text == "w1 w2 w3"
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/openai/v1/", api_key=gateway.demo_key) as newer:
        answer = await newer.chat.completions.create(model=ENDPOINT, messages=ASK, max_tokens=20)
        assert answer.choices[0].message.content == SAID
        listed = [each.id async for each in newer.models.list()]
    async with client() as ours:
        assert [each.id async for each in ours.models.list()] == listed
        assert (await ours.models.retrieve(ENDPOINT)).id == ENDPOINT
    assert ENDPOINT in listed
    async with client("stranger") as strange:
        assert ENDPOINT not in [each.id async for each in strange.models.list()]
        with pytest.raises(openai.PermissionDeniedError):
            await strange.models.retrieve(ENDPOINT)


async def test_every_refusal_raises_the_class_that_azures_users_catch(
    client: Callable[..., openai.AsyncAzureOpenAI],
) -> None:
    async def refused(
        ours: openai.AsyncAzureOpenAI, model: str = ENDPOINT, **more: object
    ) -> openai.APIError:
        async with ours:
            with pytest.raises(openai.APIError) as caught:
                async with asyncio.timeout(20):
                    await ours.chat.completions.create(
                        model=model, messages=more.pop("messages", ASK), **more
                    )  # type: ignore[call-overload]
        return caught.value

    assert type(await refused(client(key="gk_live_wrong"))) is openai.AuthenticationError
    forbidden = await refused(client("stranger"))
    assert type(forbidden) is openai.PermissionDeniedError
    assert "CAN_QUERY" in forbidden.message
    assert type(await refused(client(), "gpt-99")) is openai.NotFoundError
    assert type(await refused(client(), max_tokens=-1)) is openai.BadRequestError
    async with client("poor") as ours:
        await ours.chat.completions.create(model=ENDPOINT, messages=ASK, max_tokens=20)
    soon = await refused(client("poor"))
    assert type(soon) is openai.RateLimitError
    assert soon.response.headers["retry-after"]
    later = await refused(client("daily"))
    assert type(later) is openai.RateLimitError
    assert later.code == "insufficient_quota"
    failing = [{"role": "user", "content": "[[fail=500]]"}]
    assert type(await refused(client(), messages=failing)) is openai.InternalServerError


async def test_a_stream_that_breaks_raises(client: Callable[..., openai.AsyncAzureOpenAI]) -> None:
    broken = [{"role": "user", "content": "[[tokens=20 delay=1ms fault=reset at=5]]"}]
    async with client() as ours:
        with pytest.raises(openai.APIError):
            async for _ in await ours.chat.completions.create(
                model=ENDPOINT, messages=broken, max_tokens=20, stream=True
            ):
                pass


@pytest.mark.parametrize(
    "path",
    [
        "/openai",
        "/openai/",
        "/openai/deployments",
        "/openai/deployments/x",
        "/openai/deployments//chat/completions",
        "/openai/deployments/x/chat",
        "/openai/deployments/x/images/generations",
        "/openai/v1",
        "/openai/v1/deployments/x/embeddings",
    ],
)
async def test_other_paths_lead_nowhere(gateway: Deployment, path: str) -> None:
    answer = await gateway.ask("POST", path, {"messages": ASK}, headers=[("api-key", gateway.demo_key)])
    assert answer.status == 404
    assert answer.json()["error"]["message"]


async def test_an_endpoints_name_is_read_from_its_path_as_it_was_quoted() -> None:
    assert called(b"/openai/deployments/a%20b%2Fc/embeddings") == (
        called(b"/openai/v1/embeddings")[0],
        "a b/c",
    )
    assert called(b"/openai/deployments//embeddings") == (None, None)
