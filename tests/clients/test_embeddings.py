"""The official `openai` client's and MLflow's `embeddings`: floats, base64, batches, token ids, limits and refusals."""

from __future__ import annotations

import asyncio
import base64
from array import array
from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest
import pytest_asyncio
from mlflow.deployments import get_deploy_client

from tests.faults.answers import embed
from tests.faults.upstream import Upstream
from tests.system.deployment import ENDPOINT, Deployment, Person, chat, limit

pytestmark = pytest.mark.asyncio(loop_scope="module")

VECTORS = "vectors"
MINUTE = 60_000


@pytest.fixture(scope="module")
def people() -> dict[str, Person]:
    return {
        "silent": Person((limit("output_tokens", 0),)),
        "tight": Person((limit("input_tokens", 40),)),
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(gateway: Deployment) -> AsyncIterator[Deployment]:
    """The gateway with an endpoint that embeds, for everybody but the stranger."""
    made = await gateway.administer(
        "POST",
        "/endpoints/",
        {
            "name": VECTORS,
            "task": "llm/v1/embeddings",
            "served_entities": [{"name": "e", "kind": "local", "provider": "vllm", "model": "mixtral-demo"}],
        },
    )
    for name in ("demo", "silent", "tight"):
        (user,) = (await gateway.administer("GET", f"/users?name={name}"))["items"]
        await gateway.administer(
            "PUT",
            f"/endpoints/{made['id']}/grants",
            {"grantee_kind": "user", "grantee_id": user["id"], "level": "CAN_QUERY"},
        )
    yield gateway


@pytest.fixture(params=["/v1", "/serving-endpoints"])
def client(served: Deployment, request: pytest.FixtureRequest) -> Callable[..., openai.AsyncOpenAI]:
    """A client as a user, on either tree of paths."""

    def make(name: str = "demo", key: str | None = None) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=served.url + request.param, api_key=key or served.keys[name], max_retries=0, timeout=20
        )

    return make


async def test_the_clients_own_way_of_asking_is_base64_and_a_batch_keeps_its_order(
    client: Callable[..., openai.AsyncOpenAI], served: Deployment, upstream: Upstream
) -> None:
    texts = ["What is a mixture of experts?", "How is a request billed?", "Ä"]
    async with client() as ours:
        answer = await ours.embeddings.create(model=VECTORS, input=texts, user="someone")
    sent = upstream.received[-1]
    assert sent.path == "/v1/embeddings"
    assert b'"encoding_format":"base64"' in sent.body
    assert b"max_tokens" not in sent.body
    assert b"someone" not in sent.body
    assert [each.index for each in answer.data] == [0, 1, 2]
    for text, each in zip(texts, answer.data, strict=True):
        assert each.embedding == pytest.approx(embed(text), abs=1e-6)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 6 + 5 + 1
    assert answer.model == "mixtral-demo"


@pytest.mark.parametrize(
    ("given", "inputs"),
    [("one text", ["one text"]), ([5, 6, 7], [[5, 6, 7]]), ([[5, 6], [7]], [[5, 6], [7]])],
    ids=["text", "ids", "lists of ids"],
)
async def test_floats_pass_as_they_are_for_texts_and_token_ids(
    served: Deployment, given: Any, inputs: list[Any]
) -> None:
    answer = await served.ask(
        "POST", "/v1/embeddings", {"model": VECTORS, "input": given, "dimensions": 4}, key=served.demo_key
    )
    assert answer.status == 200
    assert [each["embedding"] for each in answer.json()["data"]] == [embed(each, 4) for each in inputs]
    row = await served.row_of(answer.request_id)
    assert (row["api"], row["status"], row["stream"]) == ("openai.embeddings", "ok", False)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (answer.json()["usage"]["prompt_tokens"], 0)
    assert row["usage_source"] == "reported"
    assert answer.headers["x-weighbridge-reserved"].endswith("output=0")


async def test_base64_passes_as_it_is(served: Deployment) -> None:
    body = {"model": VECTORS, "input": "x", "encoding_format": "base64"}
    answer = await served.ask("POST", "/v1/embeddings", body, key=served.demo_key)
    packed = array("f")
    packed.frombytes(base64.b64decode(answer.json()["data"][0]["embedding"]))
    assert packed.tolist() == pytest.approx(embed("x"), abs=1e-6)


async def test_mlflow_predicts_vectors(served: Deployment, as_user: Any) -> None:
    as_user()
    found = await asyncio.to_thread(
        lambda: get_deploy_client("databricks").predict(endpoint=VECTORS, inputs={"input": ["a", "b"]})
    )
    assert [each["embedding"] for each in found["data"]] == [embed("a"), embed("b")]


async def test_no_output_is_reserved_and_the_input_is(served: Deployment) -> None:
    silent, tight = served.keys["silent"], served.keys["tight"]
    asked = {"model": VECTORS, "input": "a few words"}
    assert (await served.ask("POST", "/v1/embeddings", asked, key=silent)).status == 200
    large = {"model": VECTORS, "input": ["word " * 10] * 9}
    refused = await served.ask("POST", "/v1/embeddings", large, key=tight)
    assert refused.status == 429
    assert (await served.ask("POST", "/v1/embeddings", asked, key=tight)).status == 200


async def test_refusals_are_the_sdks_own_classes(client: Callable[..., openai.AsyncOpenAI]) -> None:
    async with client(key="gk_live_wrong") as ours:
        with pytest.raises(openai.AuthenticationError):
            await ours.embeddings.create(model=VECTORS, input="x")
    async with client("stranger") as ours:
        with pytest.raises(openai.PermissionDeniedError):
            await ours.embeddings.create(model=VECTORS, input="x")
    async with client() as ours:
        with pytest.raises(openai.NotFoundError):
            await ours.embeddings.create(model="nothing", input="x")
        with pytest.raises(openai.InternalServerError):
            await ours.embeddings.create(model=VECTORS, input="[[fail=500]]")
        wrong: list[Any] = ["", [], [""], ["a", 1], [[]], [-1], ["x"] * 2_049]
        for given in wrong:
            with pytest.raises(openai.BadRequestError) as caught:
                await ours.embeddings.create(model=VECTORS, input=given)
            assert "'input'" in caught.value.message
        for more in ({"dimensions": 0}, {"extra_body": {"truncate_prompt_tokens": 3}}, {"user": 5}):
            with pytest.raises(openai.BadRequestError):
                await ours.embeddings.create(model=VECTORS, input="x", **more)


async def test_an_endpoint_of_another_task_says_what_it_serves(
    client: Callable[..., openai.AsyncOpenAI], upstream: Upstream
) -> None:
    before = len(upstream.records)
    async with client() as ours:
        with pytest.raises(openai.BadRequestError, match="llm/v1/chat"):
            await ours.embeddings.create(model=ENDPOINT, input="x")
        with pytest.raises(openai.BadRequestError, match="llm/v1/embeddings"):
            await ours.chat.completions.create(**chat("x", model=VECTORS))
        with pytest.raises(openai.BadRequestError, match="llm/v1/embeddings"):
            await ours.responses.create(model=VECTORS, input="x")
    assert len(upstream.records) == before
