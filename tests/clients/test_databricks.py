"""MLflow's and Databricks' own clients, unmodified, with only DATABRICKS_HOST and DATABRICKS_TOKEN set.

They are synchronous, so each call runs in a thread beside the oracle's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk import errors as databricks_errors
from databricks.sdk.service.serving import ChatMessage, ChatMessageRole
from mlflow.deployments import get_deploy_client
from requests import HTTPError

from gateway.seed import SQL_ENDPOINT
from tests.system.deployment import ENDPOINT, Deployment

pytestmark = pytest.mark.asyncio(loop_scope="module")

AsUser = Callable[..., None]
INPUTS = {
    "messages": [{"role": "user", "content": "[[tokens=6 delay=1ms]]"}],
    "max_tokens": 64,
    "temperature": 0,
}
SAID = "w1 w2 w3 w4 w5 w6"


async def in_thread(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    return await asyncio.to_thread(call, *arguments, **named)


async def test_the_announcements_code_runs_unchanged(as_user: AsUser) -> None:
    as_user()

    def announced() -> str:
        import mlflow.deployments

        client = mlflow.deployments.get_deploy_client("databricks")
        response = client.predict(
            endpoint="databricks-mixtral-8x7b-instruct",
            inputs={
                "messages": [{"role": "user", "content": "[[tokens=6]]"}],
                "max_tokens": 64,
                "temperature": 0,
            },
        )
        return response["choices"][0]["message"]["content"]

    assert await in_thread(announced) == SAID


async def test_mlflow_streams_chunks_that_are_nothing_but_data(as_user: AsUser) -> None:
    as_user()
    client = get_deploy_client("databricks")
    chunks = await in_thread(lambda: list(client.predict_stream(endpoint=ENDPOINT, inputs=INPUTS)))
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == SAID
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_mlflow_completes_a_text(as_user: AsUser) -> None:
    as_user()
    client = get_deploy_client("databricks")
    answer = await in_thread(
        client.predict, endpoint=ENDPOINT, inputs={"prompt": "[[tokens=2]]", "max_tokens": 9}
    )
    assert answer["choices"][0]["text"] == "w1 w2"


async def test_mlflow_lists_and_reads_endpoints(as_user: AsUser) -> None:
    as_user()
    client = get_deploy_client("databricks")
    listed = await in_thread(client.list_endpoints)
    assert {each["name"] for each in listed} == {ENDPOINT, SQL_ENDPOINT}
    read = await in_thread(client.get_endpoint, endpoint=ENDPOINT)
    assert read["name"] == ENDPOINT
    assert read["task"] == "llm/v1/chat"
    assert read["state"]["ready"] == "READY"


@pytest.mark.parametrize(
    ("who", "endpoint", "status"),
    [("stranger", ENDPOINT, 403), ("wrong", ENDPOINT, 401), ("demo", "nothing", 404)],
)
async def test_mlflow_raises_the_status_of_every_refusal_without_retrying(
    as_user: AsUser, who: str, endpoint: str, status: int
) -> None:
    as_user(who) if who != "wrong" else as_user(key="gk_live_wrong")
    client = get_deploy_client("databricks")
    async with asyncio.timeout(10):
        with pytest.raises(HTTPError) as caught:
            await in_thread(client.predict, endpoint=endpoint, inputs=INPUTS)
    assert caught.value.response.status_code == status


async def test_mlflow_raises_400_for_a_bad_parameter(as_user: AsUser) -> None:
    as_user()
    client = get_deploy_client("databricks")
    with pytest.raises(HTTPError) as caught:
        await in_thread(client.predict, endpoint=ENDPOINT, inputs={**INPUTS, "max_tokens": 0})
    assert caught.value.response.status_code == 400


async def test_databricks_sdk_queries_lists_and_reads(as_user: AsUser) -> None:
    as_user()
    workspace = await in_thread(WorkspaceClient)
    answer = await in_thread(
        workspace.serving_endpoints.query,
        name=ENDPOINT,
        messages=[ChatMessage(role=ChatMessageRole.USER, content="[[tokens=6]]")],
        max_tokens=64,
    )
    assert answer.choices[0].message.content == SAID
    assert answer.usage.completion_tokens == 6
    assert answer.served_model_name == "mixtral-demo"
    listed = await in_thread(lambda: list(workspace.serving_endpoints.list()))
    assert {each.name for each in listed} == {ENDPOINT, SQL_ENDPOINT}
    read = await in_thread(workspace.serving_endpoints.get, ENDPOINT)
    assert read.name == ENDPOINT
    assert read.state.ready.value == "READY"
    assert read.config.served_entities[0].name == "mixtral-demo"


async def test_databricks_sdk_reads_permissions_where_the_caller_may_manage(
    as_user: AsUser, gateway: Deployment
) -> None:
    as_user("admin")
    workspace = await in_thread(WorkspaceClient)
    held = await in_thread(workspace.serving_endpoints.get_permissions, gateway.ids[ENDPOINT])
    assert held.object_type == "serving-endpoint"
    assert "demo" in {each.user_name for each in held.access_control_list}
    as_user("stranger")
    workspace = await in_thread(WorkspaceClient)
    with pytest.raises((databricks_errors.PermissionDenied, databricks_errors.NotFound)):
        await in_thread(workspace.serving_endpoints.get_permissions, gateway.ids[ENDPOINT])


@pytest.mark.parametrize(
    ("who", "endpoint", "error"),
    [
        ("stranger", ENDPOINT, databricks_errors.PermissionDenied),
        ("wrong", ENDPOINT, databricks_errors.Unauthenticated),
        ("demo", "nothing", databricks_errors.NotFound),
    ],
)
async def test_databricks_sdk_raises_the_class_of_every_refusal(
    as_user: AsUser, who: str, endpoint: str, error: type[Exception]
) -> None:
    as_user(who) if who != "wrong" else as_user(key="gk_live_wrong")
    workspace = await in_thread(WorkspaceClient)
    with pytest.raises(error):
        await in_thread(
            workspace.serving_endpoints.query,
            name=endpoint,
            messages=[ChatMessage(role=ChatMessageRole.USER, content="x")],
        )


async def test_mlflows_gateway_client_lists_reads_and_asks(
    gateway: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "demo")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", gateway.demo_key)
    client = get_deploy_client(gateway.url)
    listed = await in_thread(client.list_endpoints)
    assert {each.name for each in listed} == {ENDPOINT, SQL_ENDPOINT}
    read = await in_thread(client.get_endpoint, ENDPOINT)
    assert read.endpoint_type == "llm/v1/chat"
    answer = await in_thread(client.predict, endpoint=ENDPOINT, inputs=INPUTS)
    assert answer["choices"][0]["message"]["content"] == SAID


async def test_paths_of_databricks_ai_gateway_reach_what_they_are_named_after(gateway: Deployment) -> None:
    ask: Any = [{"role": "user", "content": "[[tokens=6]]"}]
    listed: list[list[str]] = []
    for base in ("/serving-endpoints", "/ai-gateway/mlflow/v1", "/ai-gateway/openai/v1"):
        async with openai.AsyncOpenAI(base_url=gateway.url + base, api_key=gateway.demo_key) as ours:
            chat = await ours.chat.completions.create(model=ENDPOINT, messages=ask, max_tokens=20)
            assert chat.choices[0].message.content == SAID
            response = await ours.responses.create(model=ENDPOINT, input="[[tokens=6]]", store=False)
            assert response.output_text == SAID
            listed.append([each.id async for each in ours.models.list()])
            assert (await ours.models.retrieve(ENDPOINT)).id == ENDPOINT
            with pytest.raises(openai.NotFoundError):
                await ours.chat.completions.create(model="nothing", messages=ask)
    assert ENDPOINT in listed[0]
    assert listed[1:] == [listed[0]] * 2
    base = f"{gateway.url}/ai-gateway/anthropic"
    async with anthropic.AsyncAnthropic(base_url=base, api_key=gateway.demo_key) as theirs:
        message = await theirs.messages.create(model=ENDPOINT, messages=ask, max_tokens=20)
        assert message.content[0].text == SAID  # type: ignore[union-attr]
        assert [each.id async for each in theirs.models.list()] == listed[0]
        with pytest.raises(anthropic.NotFoundError):
            await theirs.messages.create(model="nothing", messages=ask, max_tokens=20)
    for path in (
        "/ai-gateway/mlflow/v1/nothing",
        "/ai-gateway/anthropic/v1/nothing",
        "/ai-gateway/other/v1/chat/completions",
    ):
        assert (await gateway.ask("POST", path, {}, key=gateway.demo_key)).status == 404


async def test_discovery_needs_no_key(gateway: Deployment) -> None:
    answer = await gateway.ask("GET", "/.well-known/databricks-config")
    assert answer.status == 200
    assert answer.json()["workspace_id"] is None
