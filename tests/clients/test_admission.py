"""Every route that reaches a model passes the one point of admission: generated from the API's own description."""

from __future__ import annotations

import pytest

from tests.faults.upstream import Upstream
from tests.system.deployment import ENDPOINT, Deployment, Person, limit

pytestmark = pytest.mark.asyncio(loop_scope="module")
VECTORS = "vectors"


@pytest.fixture(scope="module")
def people() -> dict[str, Person]:
    return {"none": Person((limit("requests", 0),))}


async def test_no_call_to_a_model_gets_past_a_limit_of_nothing_or_a_missing_grant(
    gateway: Deployment, upstream: Upstream
) -> None:
    document = (await gateway.ask("GET", "/openapi/openapi.json")).json()
    calls = {
        path: item["post"]
        for path, item in document["paths"].items()
        if "Calls to models" in item.get("post", {}).get("tags", ())
    }
    assert {"/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens"} <= calls.keys()
    made = await gateway.administer(
        "POST",
        "/endpoints/",
        {
            "name": VECTORS,
            "task": "llm/v1/embeddings",
            "served_entities": [{"name": "e", "kind": "local", "provider": "vllm", "model": "mixtral-demo"}],
        },
    )
    grant = {"grantee_kind": "user", "grantee_id": gateway.ids["none"], "level": "CAN_QUERY"}
    await gateway.administer("PUT", f"/endpoints/{made['id']}/grants", grant)
    upstream.received.clear()
    for path, operation in calls.items():
        body = operation["requestBody"]["content"]["application/json"]["example"]
        if "model" in body:
            body = {**body, "model": VECTORS if path.endswith("/embeddings") else ENDPOINT}
        where = path.replace("{name}", VECTORS if path.endswith("/embeddings") else ENDPOINT)
        for who, statuses in (("none", (429, 403)), ("stranger", (403,))):
            answer = await gateway.ask("POST", where, body, key=gateway.keys[who])
            assert answer.status in statuses, (path, who, answer.status, answer.body)
            if who == "none":
                assert gateway.ids["none/requests"].encode() in answer.body, path
    asked = {each.path for each in upstream.received}
    reached = {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/tokenize"}
    assert not asked & reached
