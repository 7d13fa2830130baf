"""DESIGN's table of statuses, cause by cause, on /v1 and on the Databricks routes."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.faults.upstream import Upstream
from tests.system.asking import Answer
from tests.system.deployment import ENDPOINT, Deployment, Person, chat, free_port, limit

pytestmark = pytest.mark.asyncio(loop_scope="module")

V1 = ["/v1/chat/completions", "/v1/completions", "/chat/completions"]
DATABRICKS = [
    f"/serving-endpoints/{ENDPOINT}/invocations",
    f"/endpoints/{ENDPOINT}/invocations",
    "/serving-endpoints/chat/completions",
    "/serving-endpoints/completions",
]


@pytest.fixture(scope="module")
def workers() -> int:
    return 1


@pytest.fixture(scope="module")
def people() -> dict[str, Person]:
    return {
        "minute": Person((limit("requests", 1),)),
        "day": Person((limit("requests", 0, window_ms=86_400_000),)),
    }


def body(path: str) -> dict:
    asked = chat()
    if path.endswith("/completions") and "chat" not in path:
        del asked["messages"]
        asked["prompt"] = "hello"
    return asked


async def post(gateway: Deployment, path: str, who: str) -> Answer:
    return await gateway.ask("POST", path, body(path), key=gateway.keys[who])


def is_databricks(answer: Answer, status: int, code: str) -> None:
    told = answer.json()
    assert (answer.status, told["error_code"]) == (status, code)
    assert told["message"] and "error" not in told and "detail" not in told


def is_openai(answer: Answer, status: int, code: str) -> None:
    told = answer.json()["error"]
    assert (answer.status, told["code"]) == (status, code)
    assert told["message"] and told["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("path", [*V1, *DATABRICKS])
async def test_a_good_call_answers_on_every_path(gateway: Deployment, path: str) -> None:
    answer = await post(gateway, path, "bulk")
    assert answer.status == 200
    assert ("served-model-name" in answer.headers) == (path in DATABRICKS)
    assert answer.headers["x-weighbridge-reserved"]
    row = await gateway.row_of(answer.request_id)
    assert row["api"].startswith("databricks" if path in DATABRICKS else "openai")


async def test_a_limit_that_resets_within_a_minute(gateway: Deployment) -> None:
    assert (await post(gateway, V1[0], "minute")).status == 200
    for path in V1:
        answer = await post(gateway, path, "minute")
        is_openai(answer, 429, "rate_limit_exceeded")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    for path in DATABRICKS:
        answer = await post(gateway, path, "minute")
        is_databricks(answer, 429, "REQUEST_LIMIT_EXCEEDED")
        assert 1 <= int(answer.headers["retry-after"]) <= 60


async def test_a_limit_that_resets_later(gateway: Deployment) -> None:
    for path in V1:
        answer = await post(gateway, path, "day")
        is_openai(answer, 429, "insufficient_quota")
        assert answer.headers["x-should-retry"] == "false"
        assert "retry-after" not in answer.headers
    for path in DATABRICKS:
        answer = await post(gateway, path, "day")
        is_databricks(answer, 403, "PERMISSION_DENIED")
        assert "retry-after" not in answer.headers
        # Which limit, whose, what is left, when it resets.
        assert {"limit", "scope", "remaining", "resets_at_ms"} <= answer.json()["limit"].keys()


async def test_a_field_that_nobody_knows_is_refused_by_the_guard_and_costs_nothing(
    gateway: Deployment, upstream: Upstream
) -> None:
    seen = len(upstream.records)
    answer = await gateway.ask("POST", V1[0], chat(unheard_of=1), key=gateway.keys["bulk"])
    is_openai(answer, 400, "unsupported_field")
    row = await gateway.row_of(answer.request_id)
    assert (row["status"], row["error_code"], row["cost_nano_usd"]) == ("error", "unsupported_field", 0)
    answer = await gateway.ask("POST", DATABRICKS[0], chat(unheard_of=1), key=gateway.keys["bulk"])
    is_databricks(answer, 400, "INVALID_PARAMETER_VALUE")
    assert len(upstream.records) == seen


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_another_method_than_post(gateway: Deployment, method: str) -> None:
    answer = await gateway.ask(method, V1[0], key=gateway.demo_key)
    is_openai(answer, 405, "method_not_allowed")
    answer = await gateway.ask(method, DATABRICKS[0], key=gateway.demo_key)
    is_databricks(answer, 400, "BAD_REQUEST")


async def test_the_frameworks_own_answers_speak_the_paths_dialect(gateway: Deployment) -> None:
    for path in ("/v1/nothing", "/nothing", "/admin/v1/nothing"):
        answer = await gateway.ask("GET", path, key=gateway.demo_key)
        assert answer.status == 404 and answer.json()["error"]["code"]
    for path in ("/api/2.0/nothing", "/serving-endpoints/a/b/c"):
        answer = await gateway.ask("GET", path, key=gateway.demo_key)
        assert answer.status == 404 and answer.json()["error_code"] in (
            "ENDPOINT_NOT_FOUND",
            "RESOURCE_DOES_NOT_EXIST",
            "NOT_FOUND",
        )
    answer = await gateway.ask("DELETE", "/api/2.0/serving-endpoints", key=gateway.demo_key)
    assert answer.status in (400, 403, 404) and answer.json()["error_code"]
    answer = await gateway.ask("POST", "/admin/v1/users", {"name": 7}, key=gateway.admin_key)
    assert answer.status == 400 and answer.json()["error"]["code"]


async def test_every_listing_answers_with_and_without_the_slash(gateway: Deployment) -> None:
    for path in (
        "/v1/models",
        "/api/2.0/serving-endpoints",
        f"/api/2.0/serving-endpoints/{ENDPOINT}",
        "/api/2.0/endpoints",
    ):
        for slash in ("", "/"):
            answer = await gateway.ask("GET", path + slash, key=gateway.demo_key)
            assert answer.status == 200, (path + slash, answer)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def warming(
    homes: Path, database_url: str, module_redis: str, gateway: Deployment
) -> AsyncIterator[Deployment]:
    """A worker whose engine has not come up yet."""
    async with _second(
        homes / "warming", database_url, module_redis, gateway, f"http://127.0.0.1:{free_port()}"
    ) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engineless(
    homes: Path, database_url: str, module_redis: str, gateway: Deployment
) -> AsyncIterator[Deployment]:
    """A worker of a deployment without an engine."""
    async with _second(homes / "engineless", database_url, module_redis, gateway, None) as made:
        yield made


def _second(
    home: Path, database_url: str, redis_url: str, first: Deployment, engine_url: str | None
) -> Deployment:
    home.mkdir()
    for name in ("master.key", "admin.key", "demo.key"):
        shutil.copy2(first.home / name, home / name)
    return Deployment(
        home=home,
        database_url=database_url,
        redis_url=redis_url,
        engine_url=engine_url,
        workers=1,
        people={},
        first=False,
        awaits="/healthz",
    )


async def test_an_engine_that_warms_up(warming: Deployment) -> None:
    answer = await warming.ask("POST", V1[0], chat(), key=warming.demo_key)
    is_openai(answer, 503, "temporarily_unavailable")
    assert 1 <= int(answer.headers["retry-after"]) <= 10
    answer = await warming.ask("POST", DATABRICKS[0], chat(), key=warming.demo_key)
    is_databricks(answer, 503, "TEMPORARILY_UNAVAILABLE")
    assert 1 <= int(answer.headers["retry-after"]) <= 10
    ready = await warming.ask("GET", "/readyz")
    assert ready.status == 503
    assert ready.json()["parts"]["engine"] != "ok"
    assert {told for part, told in ready.json()["parts"].items() if part != "engine"} == {"ok"}


async def test_no_engine_at_all(engineless: Deployment) -> None:
    answer = await engineless.ask("POST", V1[0], chat(), key=engineless.demo_key)
    is_openai(answer, 503, "out_of_service")
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
    answer = await engineless.ask("POST", DATABRICKS[0], chat(), key=engineless.demo_key)
    is_databricks(answer, 400, "BAD_REQUEST")


async def test_a_call_that_found_no_engine_costs_nothing_but_is_on_record(
    engineless: Deployment, upstream: Upstream
) -> None:
    answer = await engineless.ask("POST", V1[0], chat(), key=engineless.demo_key)
    row = await engineless.row_of(answer.request_id)
    assert (row["status"], row["http_status"], row["cost_nano_usd"], row["attempts"]) == ("error", 503, 0, 0)
