"""Rate limits that an endpoint's managers set in Databricks' shapes: the limits of /admin/v1, and no way around them."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest_asyncio
from databricks.sdk.service.serving import (
    AiGatewayConfig,
    AiGatewayRateLimit,
    AiGatewayRateLimitKey,
    AiGatewayRateLimitRenewalPeriod,
    PutAiGatewayResponse,
    PutResponse,
)

from tests.admin.conftest import Deployment

MINUTE = AiGatewayRateLimitRenewalPeriod.MINUTE


@pytest_asyncio.fixture(loop_scope="module")
async def mine(deployment: Deployment, endpoint_name: str) -> dict[str, Any]:
    """An endpoint of its own, and `owner`, who manages it and nothing else."""
    found = await deployment.ask("GET", f"/admin/v1/endpoints?name={endpoint_name}")
    entity = found.json()["items"][0]["served_entities"][0]
    entity.pop("id")
    endpoint = await deployment.made(
        "/admin/v1/endpoints", {"name": f"mine-{uuid4().hex[:8]}", "served_entities": [entity]}
    )
    user = await deployment.made("/admin/v1/users", {"name": f"owner-{uuid4().hex[:8]}"})
    made = await deployment.made("/admin/v1/keys", {"principal_id": user["id"]})
    deployment.keys["owner"] = made["key"]
    grant = {"grantee_kind": "user", "grantee_id": user["id"], "level": "CAN_MANAGE"}
    await deployment.ask("PUT", f"/admin/v1/endpoints/{endpoint['id']}/grants", json=grant)
    return {**endpoint, "owner": user["name"]}


async def put(deployment: Deployment, name: str, what: str, body: Any, who: str = "owner") -> Any:
    return await deployment.ask("PUT", f"/api/2.0/serving-endpoints/{name}/{what}", who, json=body)


async def limits_of(deployment: Deployment, endpoint_id: str) -> list[dict[str, Any]]:
    found = (await deployment.ask("GET", "/admin/v1/limits?limit=200")).json()["items"]
    return [each for each in found if endpoint_id in (each["subject_id"], each["endpoint_id"])]


async def test_an_owner_sets_reads_and_takes_away_limits_which_are_those_of_the_admin_api(
    deployment: Deployment, mine: dict[str, Any]
) -> None:
    group = await deployment.made("/admin/v1/groups", {"name": f"team-{uuid4().hex[:8]}"})
    wanted = [
        AiGatewayRateLimit(renewal_period=MINUTE, calls=100, tokens=5000, key=AiGatewayRateLimitKey.ENDPOINT),
        AiGatewayRateLimit(renewal_period=MINUTE, calls=10, key=AiGatewayRateLimitKey.USER),
        AiGatewayRateLimit(
            renewal_period=MINUTE, tokens=700, key=AiGatewayRateLimitKey.USER_GROUP, principal=group["name"]
        ),
        AiGatewayRateLimit(
            renewal_period=MINUTE, calls=0, key=AiGatewayRateLimitKey.USER, principal=mine["owner"]
        ),
    ]
    body = {"rate_limits": [each.as_dict() for each in wanted]}
    answer = await put(deployment, mine["name"], "ai-gateway", body)
    assert answer.status_code == 200, answer.text

    def told(entries: list[AiGatewayRateLimit] | None) -> list[dict[str, Any]]:
        return sorted((each.as_dict() for each in entries or []), key=str)

    assert told(PutAiGatewayResponse.from_dict(answer.json()).rate_limits) == told(wanted)
    path = f"/api/2.0/serving-endpoints/{mine['name']}"
    shown = (await deployment.ask("GET", path, "owner")).json()["ai_gateway"]
    assert told(AiGatewayConfig.from_dict(shown).rate_limits) == told(wanted)

    held = await limits_of(deployment, mine["id"])
    assert {(each["scope"], each["metric"], each["amount"], each["window"], each["by_owner"]) for each in held} == {
        ("endpoint", "requests", 100, "rolling:60000", True),
        ("endpoint", "total_tokens", 5000, "rolling:60000", True),
        ("user_default", "requests", 10, "rolling:60000", True),
        ("group", "total_tokens", 700, "rolling:60000", True),
        ("user", "requests", 0, "rolling:60000", True),
    }  # fmt: skip

    older = {"rate_limits": [{"calls": 50, "key": "endpoint", "renewal_period": "minute"}]}
    answer = await put(deployment, mine["name"], "rate-limits", older)
    assert PutResponse.from_dict(answer.json()).as_dict() == older
    held = await limits_of(deployment, mine["id"])
    assert {(each["scope"], each["metric"], each["amount"]) for each in held} == {
        ("endpoint", "requests", 50),
        ("endpoint", "total_tokens", 5000),
        ("group", "total_tokens", 700),
        ("user", "requests", 0),
    }, "what the older shape cannot say stays"
    assert (await put(deployment, mine["name"], "ai-gateway", {})).status_code == 200
    assert len(await limits_of(deployment, mine["id"])) == 4
    assert (await put(deployment, mine["name"], "ai-gateway", {"rate_limits": []})).status_code == 200
    assert await limits_of(deployment, mine["id"]) == []


async def test_what_an_administrator_has_set_stays_whatever_the_owner_asks_for(
    deployment: Deployment, mine: dict[str, Any]
) -> None:
    cap = {"scope": "endpoint", "subject_id": mine["id"], "metric": "requests", "window": "rolling:60000"}
    set_by_admin = await deployment.made("/admin/v1/limits", {**cap, "amount": 5})
    for calls, status in ((500, 403), (1, 403), (5, 200)):
        body = {"rate_limits": [{"calls": calls, "key": "endpoint", "renewal_period": "minute"}]}
        answer = await put(deployment, mine["name"], "rate-limits", body)
        assert answer.status_code == status, answer.text
    answer = await put(deployment, mine["name"], "ai-gateway", {"rate_limits": []})
    assert [each["calls"] for each in answer.json()["rate_limits"]] == [5], "it is shown that it stays"
    tokens = {"rate_limits": [{"tokens": 9, "renewal_period": "minute"}]}
    assert (await put(deployment, mine["name"], "ai-gateway", tokens)).status_code == 200
    held = await limits_of(deployment, mine["id"])
    assert {(each["metric"], each["amount"], each["by_owner"]) for each in held} == {
        ("requests", 5, False),
        ("total_tokens", 9, True),
    }
    body = {"rate_limits": [{"calls": 7, "renewal_period": "minute"}]}
    assert (await put(deployment, mine["name"], "ai-gateway", body, "admin")).status_code == 200
    answer = await deployment.ask("GET", f"/admin/v1/limits/{set_by_admin['id']}")
    assert answer.json()["amount"] == 7, "an administrator may on either route"


async def test_only_who_manages_the_endpoint_sets_its_limits_and_nothing_else_is_taken(
    deployment: Deployment, mine: dict[str, Any], endpoint_name: str
) -> None:
    body = {"rate_limits": [{"calls": 1, "key": "endpoint", "renewal_period": "minute"}]}
    for what in ("rate-limits", "ai-gateway"):
        assert (await put(deployment, endpoint_name, what, body)).status_code == 403
        assert (await put(deployment, endpoint_name, what, body, "demo")).status_code == 403
        assert (await put(deployment, "nowhere", what, body)).status_code == 404
    assert (
        "ai_gateway"
        not in (await deployment.ask("GET", f"/api/2.0/serving-endpoints/{endpoint_name}", "demo")).json()
    )
    renewal = {"renewal_period": "minute"}
    for wrong in (
        {"surprise": {}},
        {"usage_tracking_config": {"enabled": False}},
        {"rate_limits": [renewal]},
        {"rate_limits": [{"calls": 1, "renewal_period": "hour"}]},
        {"rate_limits": [{"calls": -1, **renewal}]},
        {"rate_limits": [{"calls": 1, **renewal}, {"calls": 2, **renewal}]},
        {"rate_limits": [{"calls": 1, "key": "endpoint", "principal": "x", **renewal}]},
        {"rate_limits": [{"calls": 1, "key": "service_principal", **renewal}]},
    ):
        answer = await put(deployment, mine["name"], "ai-gateway", wrong)
        assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE"), wrong
    unknown = {"rate_limits": [{"calls": 1, "key": "user", "principal": "nobody", **renewal}]}
    assert (await put(deployment, mine["name"], "ai-gateway", unknown)).status_code == 404
    assert await limits_of(deployment, mine["id"]) == []
