"""Databricks' SDK and MLflow, unpatched, on the control plane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import NotFound, PermissionDenied, Unauthenticated
from databricks.sdk.service.serving import (
    ServingEndpointAccessControlRequest,
    ServingEndpointDetailedPermissionLevel,
    ServingEndpointPermissionLevel,
)
from mlflow.deployments import get_deploy_client


@pytest.fixture
def workspace(served: dict[str, str], deployment: Any) -> Callable[[str], WorkspaceClient]:
    host = f"http://127.0.0.1:{served['WEIGHBRIDGE_PORT']}"

    def make(who: str) -> WorkspaceClient:
        return WorkspaceClient(host=host, token=deployment.keys.get(who, "gk_live_wrong"), auth_type="pat")

    return make


async def test_the_sdk_lists_reads_and_knows_who_it_is(workspace: Any, endpoint_name: str) -> None:
    def use() -> None:
        client = workspace("demo")
        assert endpoint_name in [each.name for each in client.serving_endpoints.list()]
        found = client.serving_endpoints.get(endpoint_name)
        assert found.state is not None
        assert found.state.ready is not None
        assert found.state.ready.value == "READY"
        assert found.permission_level is ServingEndpointDetailedPermissionLevel.CAN_QUERY
        assert client.current_user.me().user_name == "demo"

    await asyncio.to_thread(use)


async def test_the_sdk_reads_and_writes_permissions(workspace: Any, endpoint_name: str) -> None:
    def use() -> None:
        client = workspace("admin")
        endpoint_id = client.serving_endpoints.get(endpoint_name).id
        entry = ServingEndpointAccessControlRequest(
            group_name="demo-users", permission_level=ServingEndpointPermissionLevel.CAN_QUERY
        )
        client.serving_endpoints.update_permissions(endpoint_id, access_control_list=[entry])
        held = client.serving_endpoints.get_permissions(endpoint_id).access_control_list
        levels = {
            each.group_name or each.user_name: each.all_permissions[0].permission_level.value for each in held
        }
        assert levels["demo-users"] == "CAN_QUERY"
        assert levels["demo"] == "CAN_QUERY"
        assert len(client.serving_endpoints.get_permission_levels(endpoint_id).permission_levels) == 3
        with pytest.raises(PermissionDenied):
            workspace("demo").serving_endpoints.get_permissions(endpoint_id)

    await asyncio.to_thread(use)


async def test_the_sdk_raises_its_own_classes(workspace: Any) -> None:
    def use() -> None:
        with pytest.raises(NotFound):
            workspace("demo").serving_endpoints.get("nowhere")
        with pytest.raises(Unauthenticated):
            workspace("nobody").serving_endpoints.get("nowhere")

    await asyncio.to_thread(use)


async def test_mlflow_lists_and_reads_both_kinds_of_endpoint(
    served: dict[str, str], deployment: Any, endpoint_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = f"http://127.0.0.1:{served['WEIGHBRIDGE_PORT']}"
    monkeypatch.setenv("DATABRICKS_HOST", host)
    monkeypatch.setenv("DATABRICKS_TOKEN", deployment.keys["demo"])
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", deployment.keys["demo"])

    def use() -> None:
        databricks = get_deploy_client("databricks")
        assert endpoint_name in [each["name"] for each in databricks.list_endpoints()]
        assert databricks.get_endpoint(endpoint_name)["task"] == "llm/v1/chat"
        gateway = get_deploy_client(host)
        assert endpoint_name in [each.name for each in gateway.list_endpoints()]
        assert gateway.get_endpoint(endpoint_name).endpoint_type == "llm/v1/chat"

    await asyncio.to_thread(use)
