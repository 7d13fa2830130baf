"""MLflow's and Databricks' own clients make, change, split, roll back and delete endpoints, unchanged, and all of four workers see it.

How soon is measured by `make soak` (tests/soak/test_endpoint_changes.py); here a slow machine is given ten seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from databricks.sdk import WorkspaceClient
from databricks.sdk import errors as databricks_errors
from databricks.sdk.service.serving import (
    AiGatewayRateLimit,
    AiGatewayRateLimitKey,
    AiGatewayRateLimitRenewalPeriod,
    EndpointCoreConfigInput,
    EndpointTag,
    ExternalModel,
    ExternalModelProvider,
    FallbackConfig,
    OpenAiConfig,
    Route,
    ServedEntityInput,
    TrafficConfig,
)
from mlflow.deployments import get_deploy_client
from requests import HTTPError

from tests.faults.upstream import Upstream
from tests.system.deployment import Deployment
from tests.system.each_worker import Kept, answered_by, each_worker, refused_with, someone, until_each

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = "sk-never-shown-0123456789abcdef"
LOCAL = {"name": "ours", "entity_name": "mixtral-demo"}


@pytest.fixture(scope="module")
def workers() -> int:
    """What one worker changed, the others must know."""
    return 4


async def in_thread(call: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(call)


@pytest_asyncio.fixture(loop_scope="module")
async def all_workers(gateway: Deployment) -> AsyncIterator[list[Kept]]:
    """A connection to each worker."""
    async with each_worker(gateway) as connections:
        yield connections


async def test_mlflow_manages_endpoints(
    gateway: Deployment, upstream: Upstream, as_user: Any, all_workers: list[Kept]
) -> None:
    as_user(key=gateway.admin_key)

    async def seen_by_all(holds: Any) -> float:
        return await until_each(all_workers, holds, gateway.admin_key, "made-by-mlflow")

    client = get_deploy_client("databricks")
    theirs = {
        "name": "theirs",
        "external_model": {
            "name": "their-model",
            "provider": "custom",
            "task": "llm/v1/chat",
            "custom_provider_config": {
                "custom_provider_url": upstream.url,
                "bearer_token_auth": {"token_plaintext": SECRET},
            },
        },
    }

    def make() -> Any:
        made = client.create_endpoint(
            name="made-by-mlflow",
            config={
                "config": {
                    "served_entities": [theirs],
                    "traffic_config": {
                        "routes": [{"served_entity_name": "theirs", "traffic_percentage": 100}]
                    },
                },
                "tags": [{"key": "team", "value": "a"}],
            },
        )
        assert made["state"] == {"ready": "READY", "config_update": "NOT_UPDATING"}
        assert SECRET not in str(made) + str(client.get_endpoint("made-by-mlflow")) + str(
            client.list_endpoints()
        )
        return made

    await in_thread(make)
    seen = await seen_by_all(answered_by("their-model"))
    sent = upstream.received[-1]
    assert sent.headers["authorization"] == f"Bearer {SECRET}"
    assert SECRET.encode() not in sent.body

    def change() -> Any:
        changed = client.update_endpoint_config("made-by-mlflow", {"served_entities": [LOCAL]})
        assert changed["config"]["config_version"] == 2
        tags = client.update_endpoint_tags("made-by-mlflow", {"add_tags": [{"key": "cost", "value": "9"}]})
        assert {"key": "cost", "value": "9"} in tags["tags"]
        limits = {"rate_limits": [{"calls": 1000, "key": "endpoint", "renewal_period": "minute"}]}
        assert client.update_endpoint_rate_limits("made-by-mlflow", limits)["rate_limits"][0]["calls"] == 1000
        features = client.update_endpoint_ai_gateway(
            "made-by-mlflow", {"usage_tracking_config": {"enabled": True}}
        )
        assert features["usage_tracking_config"] == {"enabled": True}

    await in_thread(change)
    changed = await seen_by_all(answered_by("mixtral-demo"))

    def end() -> None:
        with pytest.raises(HTTPError) as caught:
            client.create_endpoint(name="made-by-mlflow", config={"config": {"served_entities": [LOCAL]}})
        assert caught.value.response.status_code == 400
        client.delete_endpoint("made-by-mlflow")
        assert "made-by-mlflow" not in [each["name"] for each in client.list_endpoints()]
        with pytest.raises(HTTPError) as caught:
            client.get_endpoint("made-by-mlflow")
        assert caught.value.response.status_code == 404

    await in_thread(end)
    gone = await seen_by_all(refused_with(404))
    print(
        f"every worker saw it after {seen:.2f} s, its change after {changed:.2f} s, its end after {gone:.2f} s"
    )


async def test_databricks_sdk_manages_endpoints(
    gateway: Deployment, as_user: Any, all_workers: list[Kept]
) -> None:
    as_user(key=gateway.admin_key)

    async def seen_by_all(holds: Any, **more: str) -> float:
        return await until_each(all_workers, holds, gateway.admin_key, "made-by-sdk", **more)

    workspace = WorkspaceClient()
    serving = workspace.serving_endpoints
    ours = ServedEntityInput(name="ours", entity_name="mixtral-demo")
    again = ServedEntityInput(name="again", entity_name="mixtral-demo@tokens=2")
    theirs = ServedEntityInput(
        name="theirs",
        external_model=ExternalModel(
            provider=ExternalModelProvider.OPENAI,
            name="gpt-x",
            task="llm/v1/chat",
            openai_config=OpenAiConfig(openai_api_key_plaintext=SECRET),
        ),
    )

    def use() -> str:
        made = serving.create_and_wait(
            name="made-by-sdk",
            config=EndpointCoreConfigInput(name="made-by-sdk", served_entities=[ours]),
            tags=[EndpointTag("a", "1")],
        )
        assert made.permission_level is not None and made.permission_level.value == "CAN_MANAGE"
        split = serving.update_config_and_wait(
            "made-by-sdk",
            served_entities=[ours, again, theirs],
            traffic_config=TrafficConfig(
                routes=[
                    Route(served_entity_name="ours", traffic_percentage=60),
                    Route(served_entity_name="again", traffic_percentage=40),
                ]
            ),
        )
        assert split.config is not None and split.config.config_version == 2
        assert [each.name for each in split.config.served_entities or ()] == ["ours", "again", "theirs"]
        model = (split.config.served_entities or ())[2].external_model
        assert model is not None and model.provider is ExternalModelProvider.OPENAI
        assert model.openai_config is not None and model.openai_config.openai_api_key_plaintext is None
        assert SECRET not in str(split.as_dict())
        features = serving.put_ai_gateway(
            "made-by-sdk",
            fallback_config=FallbackConfig(enabled=True),
            rate_limits=[
                AiGatewayRateLimit(
                    renewal_period=AiGatewayRateLimitRenewalPeriod.MINUTE,
                    calls=500,
                    key=AiGatewayRateLimitKey.ENDPOINT,
                )
            ],
        )
        assert features.fallback_config is not None and features.fallback_config.enabled
        tags = serving.patch("made-by-sdk", add_tags=[EndpointTag("b", "2")], delete_tags=["a"])
        assert [(each.key, each.value) for each in tags.tags or ()] == [("b", "2")]
        with pytest.raises(databricks_errors.InvalidParameterValue):
            serving.update_config("made-by-sdk", served_entities=[])
        with pytest.raises(databricks_errors.ResourceAlreadyExists):
            serving.create(
                "made-by-sdk", config=EndpointCoreConfigInput(name="made-by-sdk", served_entities=[ours])
            )
        assert made.id is not None
        return made.id

    endpoint_id = await in_thread(use)
    # Whom the split gives to the second entity it gives to it at every worker.
    second = answered_by("mixtral-demo@tokens=2")
    moved = await someone(all_workers[0], second, gateway.admin_key, "made-by-sdk")
    split = await seen_by_all(second, sticky=moved)
    answer = await gateway.ask(
        "POST",
        f"/admin/v1/endpoints/{endpoint_id}/rollback",
        {"config_version": 1},
        key=gateway.admin_key,
        headers=[("if-match", "*")],
    )
    assert answer.status == 200, answer
    back = answer.json()
    assert (back["config_version"], [each["name"] for each in back["served_entities"]]) == (3, ["ours"])
    back_again = await seen_by_all(answered_by("mixtral-demo"), sticky=moved)

    def others() -> None:
        demo = WorkspaceClient(host=gateway.url, token=gateway.demo_key, auth_type="pat").serving_endpoints
        for forbidden in (
            lambda: demo.delete("made-by-sdk"),
            lambda: demo.update_config("made-by-sdk", served_entities=[ours]),
            lambda: demo.put_ai_gateway("made-by-sdk"),
            lambda: demo.patch("made-by-sdk", delete_tags=["b"]),
            lambda: demo.create("hers", config=EndpointCoreConfigInput(name="hers", served_entities=[ours])),
        ):
            with pytest.raises(databricks_errors.PermissionDenied):
                forbidden()
        serving.delete("made-by-sdk")
        with pytest.raises(databricks_errors.NotFound):
            serving.get("made-by-sdk")

    await in_thread(others)
    gone = await seen_by_all(refused_with(404))
    print(
        f"all workers saw the split after {split:.2f} s, the roll-back after {back_again:.2f} s, the end after {gone:.2f} s"
    )
