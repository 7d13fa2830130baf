"""Provisioned throughput on the control plane: what fits is booked, what does not is refused with the arithmetic."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest_asyncio

from policies.throughput import Throughput

POOLS, PROVISIONS = "/admin/v1/throughput-pools", "/admin/v1/throughput-provisions"
POOL = {"name": "local", "replicas": 2, "tokens_per_second": 500, "slots": 8, "unit_tokens_per_second": 10}


@pytest_asyncio.fixture(loop_scope="module")
async def pool(deployment: Any) -> AsyncIterator[Any]:
    """A pool of 1,000 tokens a second in units of 10; nothing of it is left behind."""
    made = await deployment.made(POOLS, POOL)
    yield made
    for path in (PROVISIONS, POOLS):
        for each in (await deployment.ask("GET", path)).json()["items"]:
            answer = await deployment.ask("DELETE", f"{path}/{each['id']}", if_match="*")
            assert answer.status_code == 204, answer.text


async def group(deployment: Any) -> str:
    return (await deployment.made("/admin/v1/groups", {"name": f"group-{uuid4().hex[:8]}"}))["id"]


async def provision(deployment: Any, units: int, subject: str, scope: str = "group", **more: Any) -> Any:
    body = {"name": f"kept-{uuid4().hex[:8]}", "scope": scope, "subject_id": subject, "units": units, **more}
    return await deployment.ask("POST", PROVISIONS, json=body)


def error(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def test_an_overbooking_is_refused_with_the_arithmetic_and_what_just_fits_is_not(
    deployment: Any, pool: Any
) -> None:
    assert pool["capacity_tokens_per_second"] == 1000
    first = await provision(deployment, 60, await group(deployment), first_token_ms=250)
    assert first.status_code == 201, first.text
    late = await provision(deployment, 41, await group(deployment))
    assert error(late) == (409, "throughput_overbooked")
    message = late.json()["error"]["message"]
    assert "600 of the engine's 1000 tokens/s" in message
    assert "600 + 410 = 1010 > 1000" in message
    assert (await provision(deployment, 40, await group(deployment))).status_code == 201
    path = f"{PROVISIONS}/{first.json()['id']}"
    more = await deployment.ask("PATCH", path, json={"units": 61}, if_match="*")
    assert error(more) == (409, "throughput_overbooked")
    less = await deployment.ask("PATCH", path, json={"units": 59, "first_token_ms": None}, if_match="*")
    assert (less.status_code, less.json()["units"], less.json()["first_token_ms"]) == (200, 59, None)
    shrunk = await deployment.ask("PATCH", f"{POOLS}/{pool['id']}", json={"replicas": 1}, if_match="*")
    assert error(shrunk) == (409, "throughput_overbooked")
    grown = await deployment.ask("PATCH", f"{POOLS}/{pool['id']}", json={"replicas": 3}, if_match="*")
    assert grown.json()["capacity_tokens_per_second"] == 1500


async def test_what_cannot_be_is_refused_each_in_its_words(deployment: Any, pool: Any) -> None:
    assert error(await deployment.ask("POST", POOLS, json=POOL)) == (409, "conflict")
    assert error(await provision(deployment, 1, str(uuid4()))) == (400, "invalid_request")
    one = await group(deployment)
    assert (await provision(deployment, 1, one)).status_code == 201
    assert error(await provision(deployment, 1, one)) == (409, "conflict")
    assert error(await provision(deployment, 0, await group(deployment))) == (400, "invalid_request")
    kept = await deployment.ask("DELETE", f"{POOLS}/{pool['id']}", if_match="*")
    assert error(kept) == (409, "conflict")


async def test_without_a_pool_nothing_can_be_provisioned(deployment: Any) -> None:
    answer = await provision(deployment, 1, await group(deployment))
    assert error(answer) == (400, "invalid_request")
    assert "throughput-pools" in answer.json()["error"]["message"]


def booked(deployment: Any) -> Throughput | None:
    """What calls are decided with."""
    return deployment.catalog.snapshot.throughput


async def test_calls_are_decided_with_what_is_booked_and_a_deleted_group_takes_its_provision_along(
    deployment: Any, pool: Any
) -> None:
    assert booked(deployment) is None, "a pool alone changes nothing for calls"
    one = await group(deployment)
    await provision(deployment, 7, one, first_token_ms=90)
    found = booked(deployment)
    assert found is not None
    assert (found.pool.capacity, found.rate) == (1000, 70)
    assert [(each.rate, each.first_token_ms) for each in found.of("nobody", (one,))] == [(70, 90)]
    answer = await deployment.ask("DELETE", f"/admin/v1/groups/{one}", if_match="*")
    assert answer.status_code == 204, answer.text
    assert (await deployment.ask("GET", PROVISIONS)).json()["items"] == []
    assert booked(deployment) is None
