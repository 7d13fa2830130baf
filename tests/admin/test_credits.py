"""Credits as an administrator enters them: who, why and how much is on record, and nothing is ever changed."""

from __future__ import annotations

from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner

from gateway.__main__ import main

PATH = "/admin/v1/credits"
numbers = count()


async def user(deployment: Any) -> dict[str, Any]:
    return await deployment.made("/admin/v1/users", {"name": f"credited-{next(numbers)}"})


async def test_an_entry_is_read_back_audited_and_in_the_balance(deployment: Any) -> None:
    who = await user(deployment)
    budget = await deployment.made(
        "/admin/v1/budgets", {"scope": "user", "subject_id": who["id"], "period": "month", "usd": "10"}
    )
    made = await deployment.made(PATH, {"principal_id": who["id"], "usd": "2.50", "reason": "an outage"})
    assert (made["kind"], made["usd"], made["nano_usd"]) == ("credit", "2.50", 2_500_000_000)
    assert (made["principal_id"], made["entered_by"], made["reason"]) == (who["id"], "admin", "an outage")
    assert (await deployment.ask("GET", f"{PATH}/{made['id']}")).json() == made
    await deployment.made(
        PATH, {"kind": "charge", "principal_id": who["id"], "nano_usd": 1, "reason": "one too many"}
    )
    listed = (await deployment.ask("GET", f"{PATH}?principal_id={who['id']}&limit=1")).json()
    assert [each["id"] for each in listed["items"]] == [made["id"]]
    rest = (await deployment.ask("GET", f"{PATH}?principal_id={who['id']}&after={listed['next']}")).json()
    assert [(each["kind"], each["nano_usd"]) for each in rest["items"]] == [("charge", 1)]
    (balance,) = (await deployment.ask("GET", f"/admin/v1/budgets/{budget['id']}/balance")).json()["items"]
    assert balance["spent_nano_usd"] == -2_499_999_999
    audit = (await deployment.ask("GET", f"/admin/v1/audit?object_id={made['id']}")).json()["items"]
    (entry,) = audit
    assert entry["action"] == "credit.enter"
    assert entry["after"]["nano_usd"] == -2_500_000_000
    assert entry["after"]["reason"] == "an outage"


async def test_nothing_changes_or_deletes_an_entry(deployment: Any) -> None:
    who = await user(deployment)
    made = await deployment.made(PATH, {"principal_id": who["id"], "usd": "1", "reason": "an outage"})
    for method in ("PATCH", "PUT", "DELETE"):
        answer = await deployment.ask(method, f"{PATH}/{made['id']}", json={}, if_match="*")
        assert answer.status_code == 405


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"usd": "1", "reason": "r"}, "request_id"),
        ({"principal_id": "who", "request_id": str(uuid4()), "usd": "1", "reason": "r"}, "request_id"),
        ({"principal_id": "who", "usd": "0", "reason": "r"}, "nano_usd"),
        ({"principal_id": "who", "reason": "r"}, "nano_usd"),
        ({"principal_id": "who", "usd": "1", "nano_usd": 1, "reason": "r"}, "usd"),
        ({"principal_id": "who", "usd": "1"}, None),
        ({"principal_id": "who", "usd": "1", "reason": "   "}, None),
        ({"principal_id": "who", "usd": "-1", "reason": "r"}, None),
        ({"principal_id": str(uuid4()), "usd": "1", "reason": "r"}, "principal_id"),
        ({"principal_id": "who", "group_id": str(uuid4()), "usd": "1", "reason": "r"}, "group_id"),
        ({"request_id": str(uuid4()), "group_id": str(uuid4()), "usd": "1", "reason": "r"}, "group_id"),
        ({"principal_id": "who", "usd": "1", "reason": "r", "at": "2999-01-01T00:00:00Z"}, "at"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    deployment: Any, body: dict[str, Any], param: str | None
) -> None:
    who = (await user(deployment))["id"]
    given = {name: who if value == "who" else value for name, value in body.items()}
    answer = await deployment.ask("POST", PATH, json=given)
    assert answer.status_code == 400, answer.text
    if param is not None:
        assert answer.json()["error"]["param"] == param


async def test_a_request_that_the_ledger_does_not_have_is_a_conflict(deployment: Any) -> None:
    answer = await deployment.ask("POST", PATH, json={"request_id": str(uuid4()), "usd": "1", "reason": "r"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "request_not_in_ledger")


async def test_auditors_read_and_only_administrators_enter(deployment: Any) -> None:
    assert (await deployment.ask("GET", PATH, "auditor")).status_code == 200
    assert (await deployment.ask("GET", PATH, "demo")).status_code == 403
    body = {"principal_id": str(uuid4()), "usd": "1", "reason": "r"}
    for who in ("auditor", "demo"):
        assert (await deployment.ask("POST", PATH, who, json=body)).status_code == 403


async def test_the_command_enters_and_lists(deployment: Any, served: dict[str, str]) -> None:
    import asyncio

    who = await user(deployment)
    run = CliRunner().invoke

    async def command(*words: str) -> Any:
        return await asyncio.to_thread(run, main, ["credits", *words], env=served)

    entered = await command("enter", "1.25", "--principal", who["name"], "--reason", "an outage")
    assert entered.exit_code == 0, entered.output
    listed = await command("list", "--principal", who["name"])
    assert "1.25 USD" in listed.output
    assert "by admin: an outage" in listed.output
    nobody = await command("enter", "1", "--reason", "x")
    assert nobody.exit_code == 1
    assert "exactly one of --request and --principal" in nobody.output
