"""Explanations over HTTP and the command line: for now, for a moment that has passed, and for whom they are."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

ROOT = Path(__file__).parents[2]


async def _demo(deployment: Any) -> str:
    return (await deployment.ask("GET", "/admin/v1/me", "demo")).json()["id"]


async def _endpoint(deployment: Any, name: str) -> str:
    found = (await deployment.ask("GET", f"/admin/v1/endpoints?name={name}")).json()
    return found["items"][0]["id"]


async def _explain(deployment: Any, as_: str = "admin", **query: str) -> Any:
    answer = await deployment.client.get(
        "/admin/v1/explain",
        params=query,
        headers={"authorization": f"Bearer {deployment.keys[as_]}"},
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_moment_that_has_passed_is_explained_by_what_held_then(
    deployment: Any, endpoint_name: str
) -> None:
    endpoint = await _endpoint(deployment, endpoint_name)
    path = f"/admin/v1/endpoints/{endpoint}/grants"
    carol = await deployment.made("/admin/v1/users", {"name": "carol"})
    group = await deployment.made("/admin/v1/groups", {"name": "readers"})
    member = {"member_kind": "user", "member_id": carol["id"]}
    assert (
        await deployment.ask("POST", f"/admin/v1/groups/{group['id']}/members", json=member)
    ).status_code == 201
    before = datetime.now(UTC)
    grant = {"grantee_kind": "group", "grantee_id": group["id"], "level": "CAN_QUERY"}
    assert (await deployment.ask("PUT", path, json=grant)).status_code == 200
    limit = await deployment.made(
        "/admin/v1/limits",
        {
            "name": "readers' calls",
            "scope": "group",
            "subject_id": group["id"],
            "metric": "requests",
            "window": "rolling:60000",
            "amount": 5,
        },
    )
    between = datetime.now(UTC)
    await deployment.changed("PATCH", f"/admin/v1/limits/{limit['id']}", {"amount": 0})

    first = await _explain(deployment, principal="carol", endpoint=endpoint_name, at=before.isoformat())
    then = await _explain(deployment, principal="carol", endpoint=endpoint_name, at=between.isoformat())
    now = await _explain(deployment, principal="carol", endpoint=endpoint_name)
    assert [each["admits"] for each in (first, then, now)] == [False, True, False]
    assert first["permission"] is None
    assert "default deny" in first["decided_by"]
    assert then["permission_rule"] == f"grant to group {group['id']}"
    assert then["charged_group"] == group["id"]
    assert [each["amount"] for each in then["rules"] if each["id"] == limit["id"]] == [5]
    assert "readers' calls" in now["decided_by"]
    assert first["snapshot_version"] < then["snapshot_version"] < now["snapshot_version"]
    assert any("'readers'" in line for line in now["text"])


async def test_a_key_that_is_revoked_or_confined_is_explained_as_it_is_refused(
    deployment: Any, endpoint_name: str
) -> None:
    demo = await _demo(deployment)
    made = await deployment.made(
        "/admin/v1/keys", {"principal_id": demo, "planes": ["control"], "name": "console"}
    )
    key = made["details"]["id"]
    found = await _explain(deployment, principal="demo", endpoint=endpoint_name, key=key)
    assert not found["admits"]
    assert "data plane" in found["decided_by"]
    await deployment.changed("DELETE", f"/admin/v1/keys/{key}")
    gone = await _explain(deployment, principal="demo", endpoint=endpoint_name, key=key)
    assert "revoked" in gone["decided_by"]


async def test_everybody_may_ask_for_themselves_and_auditors_for_all(
    deployment: Any, endpoint_name: str
) -> None:
    own = await _explain(deployment, "demo", endpoint=endpoint_name)
    assert own["admits"]
    assert own["principal"] == "demo"
    assert (await _explain(deployment, "auditor", principal="demo", endpoint=endpoint_name))["admits"]
    refused = await deployment.ask(
        "GET", f"/admin/v1/explain?principal=admin&endpoint={endpoint_name}", "demo"
    )
    assert refused.status_code == 403


async def test_what_cannot_be_explained_says_why(deployment: Any, endpoint_name: str) -> None:
    asked = {
        f"endpoint={endpoint_name}&at=2001-01-01T00:00:00Z": 404,
        f"endpoint={endpoint_name}&at=2999-01-01T00:00:00Z": 400,
        f"endpoint={endpoint_name}&principal=nobody": 404,
        "endpoint=nothing": 404,
        "": 400,
        f"request_id={uuid4()}": 404,
        f"request_id={uuid4()}&endpoint={endpoint_name}": 400,
        f"endpoint={endpoint_name}&group=nowhere": 400,
    }
    for query, status in asked.items():
        answer = await deployment.ask("GET", f"/admin/v1/explain?{query}")
        assert answer.status_code == status, f"{query}: {answer.text}"


async def test_the_command_prints_it_for_people_and_for_machines(
    served: dict[str, str], endpoint_name: str
) -> None:
    def run(*more: str) -> str:
        command = [sys.executable, "-m", "gateway", "explain", "--principal", "demo", *more]
        done = subprocess.run(
            [*command, "--endpoint", endpoint_name],
            env={**served, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    told = await asyncio.to_thread(run)
    assert "ADMITTED" in told
    assert "Answered by" in told
    assert '"admits": true' in await asyncio.to_thread(run, "--json")
