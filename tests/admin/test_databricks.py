"""The control plane as Databricks' and MLflow's clients use it."""

from __future__ import annotations

from typing import Any

import pytest


async def of(deployment: Any, path: str, who: str = "demo") -> Any:
    answer = await deployment.ask("GET", path, who)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("slash", ["", "/"])
async def test_endpoints_are_listed_and_read_with_and_without_the_slash(
    deployment: Any, endpoint_name: str, slash: str
) -> None:
    listed = await of(deployment, f"/api/2.0/serving-endpoints{slash}")
    assert endpoint_name in [each["name"] for each in listed["endpoints"]]
    one = await of(deployment, f"/api/2.0/serving-endpoints/{endpoint_name}{slash}")
    assert one["state"] == {"ready": "READY", "config_update": "NOT_UPDATING"}
    assert (one["task"], one["permission_level"], one["creator"]) == (
        "llm/v1/chat",
        "CAN_QUERY",
        "first start",
    )
    assert one["creation_timestamp"] > 1_700_000_000_000
    entity = one["config"]["served_entities"][0]
    assert (entity["name"], entity["foundation_model"]["name"]) == ("mixtral-demo", "mixtral-demo")
    assert one["config"]["traffic_config"]["routes"][0]["traffic_percentage"] == 100


@pytest.mark.parametrize("slash", ["", "/"])
async def test_mlflows_gateway_client_finds_its_own_shape(
    deployment: Any, endpoint_name: str, slash: str
) -> None:
    listed = await of(deployment, f"/api/2.0/endpoints{slash}")
    one = await of(deployment, f"/api/2.0/endpoints/{endpoint_name}{slash}")
    assert one in listed["endpoints"]
    assert one["limit"] is None
    assert one["model"] == {"name": "mixtral-demo", "provider": "vllm"}
    assert one["endpoint_url"] == f"/serving-endpoints/{endpoint_name}/invocations"


async def test_errors_have_databricks_shape_and_nothing_else(deployment: Any, endpoint_name: str) -> None:
    user = await deployment.made("/admin/v1/users", {"name": "stranger"})
    deployment.keys["stranger"] = (await deployment.made("/admin/v1/keys", {"principal_id": user["id"]}))[
        "key"
    ]
    deployment.keys["wrong"] = "gk_live_nothing"
    for path, who, status, code in (
        ("/api/2.0/serving-endpoints/nowhere", "demo", 404, "RESOURCE_DOES_NOT_EXIST"),
        (f"/api/2.0/serving-endpoints/{endpoint_name}", "stranger", 403, "PERMISSION_DENIED"),
        ("/api/2.0/serving-endpoints", "wrong", 401, "UNAUTHENTICATED"),
        ("/api/2.0/nothing/here", "demo", 404, "RESOURCE_DOES_NOT_EXIST"),
    ):
        answer = await deployment.ask("GET", path, who)
        assert (answer.status_code, answer.json()["error_code"]) == (status, code)
        assert not {"error", "detail"} & answer.json().keys()
    assert (await of(deployment, "/api/2.0/serving-endpoints", "stranger")) == {"endpoints": []}


async def test_who_am_i_in_scims_words(deployment: Any) -> None:
    me = await of(deployment, "/api/2.0/preview/scim/v2/Me")
    assert (me["userName"], me["active"], me["groups"][0]["display"]) == ("demo", True, "demo-users")


async def test_managers_share_what_they_manage_and_nobody_else_does(
    deployment: Any, endpoint_name: str
) -> None:
    endpoint = await of(deployment, f"/api/2.0/serving-endpoints/{endpoint_name}", "admin")
    path = f"/api/2.0/permissions/serving-endpoints/{endpoint['id']}"
    user = await deployment.made("/admin/v1/users", {"name": "erin"})
    deployment.keys["erin"] = (await deployment.made("/admin/v1/keys", {"principal_id": user["id"]}))["key"]

    async def share(method: str, who: str, *entries: dict[str, str]) -> Any:
        return await deployment.ask(method, path, who, json={"access_control_list": list(entries)})

    manage = {"user_name": "erin", "permission_level": "CAN_MANAGE"}
    assert (await share("PATCH", "erin", manage)).status_code == 403
    assert (await share("PATCH", "demo", manage)).status_code == 403
    before = (await deployment.ask("GET", path, "admin")).json()
    given = await share("PATCH", "admin", manage)
    assert given.status_code == 200, given.text
    shown = {
        each.get("user_name") or each.get("group_name"): each for each in given.json()["access_control_list"]
    }
    assert shown["erin"]["all_permissions"] == [{"permission_level": "CAN_MANAGE", "inherited": False}]
    assert len(shown) == len(before["access_control_list"]) + 1
    levels = await of(deployment, f"{path}/permissionLevels", "erin")
    assert [each["permission_level"] for each in levels["permission_levels"]] == [
        "CAN_VIEW",
        "CAN_QUERY",
        "CAN_MANAGE",
    ]
    replaced = await share(
        "PUT", "erin", manage, {"group_name": "demo-users", "permission_level": "CAN_QUERY"}
    )
    assert {
        each.get("user_name") or each.get("group_name") for each in replaced.json()["access_control_list"]
    } == {
        "erin",
        "demo-users",
    }
    assert (await of(deployment, f"/api/2.0/serving-endpoints/{endpoint_name}"))[
        "permission_level"
    ] == "CAN_QUERY"
    for wrong in (
        {"permission_level": "CAN_QUERY"},
        {"user_name": "erin", "group_name": "demo-users", "permission_level": "CAN_QUERY"},
        {"user_name": "erin", "permission_level": "IS_OWNER"},
    ):
        assert (await share("PATCH", "admin", wrong)).status_code == 400
    assert (
        await share("PATCH", "admin", {"user_name": "nobody", "permission_level": "CAN_VIEW"})
    ).status_code == 404
    assert (await deployment.ask("GET", path[:-4] + "0000", "admin")).status_code == 404
    await share("PUT", "admin", {"user_name": "demo", "permission_level": "CAN_QUERY"})
