"""Budgets and webhooks as an administrator makes them, and what holds for somebody as it is read back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

numbers = count()
PATH = "/admin/v1/budgets"


def name(stem: str = "budget") -> str:
    return f"{stem}-{next(numbers)}"


async def user(deployment: Any) -> dict[str, Any]:
    return await deployment.made("/admin/v1/users", {"name": name("user")})


def budget(scope: str = "deployment", **more: Any) -> dict[str, Any]:
    """A budget on a zone of its own unless told otherwise, so that one test's is not another's."""
    body = {"scope": scope, "period": "month", "usd": "10", **more}
    if "nano_usd" in more:
        del body["usd"]
    return body


async def test_every_scope_and_period_is_kept_as_it_was_entered(deployment: Any, endpoint_name: str) -> None:
    person = await user(deployment)
    machine = await deployment.made("/admin/v1/service-principals", {"name": name("machine")})
    group = await deployment.made("/admin/v1/groups", {"name": name("group")})
    key = (await deployment.made("/admin/v1/keys", {"principal_id": person["id"], "name": "k"}))["details"]
    listed = (await deployment.ask("GET", "/admin/v1/endpoints")).json()["items"]
    endpoint = next(each for each in listed if each["name"] == endpoint_name)
    subjects = {
        "user": person["id"],
        "service_principal": machine["id"],
        "group": group["id"],
        "key": key["id"],
        "endpoint": endpoint["id"],
        "user_default": None,
        "group_default": None,
        "deployment": None,
    }
    for scope, subject in subjects.items():
        for period in ("day", "week", "month", "once"):
            made = await deployment.made(
                PATH, budget(scope, subject_id=subject, period=period, time_zone="Asia/Kolkata")
            )
            assert (made["scope"], made["subject_id"], made["period"]) == (scope, subject, period)
            assert (made["nano_usd"], made["usd"]) == (10_000_000_000, "10.00")
            await deployment.changed("DELETE", f"{PATH}/{made['id']}")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"usd": None}, "nano_usd"),
        ({"usd": "1", "nano_usd": 1}, "usd"),
        ({"usd": "9999999.999999999"}, "usd"),
        ({"usd": "1.0000000001"}, None),
        ({"usd": "-1"}, None),
        ({"nano_usd": 2**53}, None),
        ({"time_zone": "Europe/Nowhere"}, None),
        ({"thresholds_percent": [80, 50]}, None),
        ({"thresholds_percent": [50, 50]}, None),
        ({"thresholds_percent": [101]}, None),
        ({"mode": "open"}, None),
        ({"scope": "user"}, "subject_id"),
        ({"subject_id": "01890000-0000-7000-8000-000000000000"}, "subject_id"),
        ({"endpoint_id": "01890000-0000-7000-8000-000000000000"}, "endpoint_id"),
        ({"limit": 5}, None),
    ],
)
async def test_what_cannot_be_decided_with_is_refused(
    deployment: Any, body: dict[str, Any], param: str | None
) -> None:
    answer = await deployment.ask("POST", PATH, json={**budget(), **body})
    assert answer.status_code == 400, answer.text
    if param is not None:
        assert answer.json()["error"]["param"] == param


async def test_a_change_names_its_version_and_is_audited(deployment: Any) -> None:
    made = await deployment.made(PATH, budget("user", subject_id=(await user(deployment))["id"]))
    path = f"{PATH}/{made['id']}"
    tag = (await deployment.ask("GET", path)).headers["etag"]
    assert (await deployment.ask("PATCH", path, json={"usd": "11"})).status_code == 428
    changed = await deployment.ask("PATCH", path, json={"usd": "11.5"}, if_match=tag)
    assert (changed.json()["usd"], changed.json()["nano_usd"]) == ("11.50", 11_500_000_000)
    assert (await deployment.ask("PATCH", path, json={"usd": "12"}, if_match=tag)).status_code == 412
    assert (await deployment.changed("PATCH", path, {"scope": "deployment"})).status_code == 400
    entries = (await deployment.ask("GET", f"/admin/v1/audit?object_id={made['id']}")).json()["items"]
    assert [each["action"] for each in entries] == ["budget.update", "budget.create"]
    assert entries[0]["after"]["amount_nano_usd"] == 11_500_000_000


async def test_an_increase_adds_for_a_while_and_its_history_stays(deployment: Any) -> None:
    person = await user(deployment)
    made = await deployment.made(PATH, budget("user", subject_id=person["id"]))
    path = f"{PATH}/{made['id']}/increases"

    async def asked(method: str, body: Any = None) -> Any:
        tag = (await deployment.ask("GET", f"{PATH}/{made['id']}")).headers["etag"]
        return await deployment.ask(method, path, json=body, if_match=tag)

    now = datetime.now(UTC)
    past = {"usd": "5", "until": (now - timedelta(minutes=1)).isoformat()}
    assert (await asked("POST", past)).status_code == 400
    ahead = {"usd": "5", "until": (now + timedelta(days=1)).isoformat()}
    assert (await asked("POST", ahead)).json()["increase_nano_usd"] == 5_000_000_000
    found = next(each for each in deployment.catalog.snapshot.budgets if each.id == made["id"])
    assert found.nano_usd == 15_000_000_000
    assert (await asked("POST", ahead)).status_code == 409
    assert (await asked("DELETE")).status_code == 204
    assert (await asked("DELETE")).status_code == 409
    found = next(each for each in deployment.catalog.snapshot.budgets if each.id == made["id"])
    assert found.nano_usd == 10_000_000_000
    listed = (await deployment.ask("GET", path)).json()["items"]
    assert [(each["usd"], each["in_force"], each["ended_at"] is not None) for each in listed] == [
        ("5.00", False, True)
    ]


async def test_an_increase_ends_by_itself(deployment: Any) -> None:
    made = await deployment.made(PATH, budget("user", subject_id=(await user(deployment))["id"]))
    tag = (await deployment.ask("GET", f"{PATH}/{made['id']}")).headers["etag"]
    until = (datetime.now(UTC) + timedelta(seconds=0.4)).isoformat()
    raised = await deployment.ask(
        "POST", f"{PATH}/{made['id']}/increases", json={"usd": "5", "until": until}, if_match=tag
    )
    assert raised.status_code == 201
    amounts: list[int] = []
    while not amounts or amounts[-1] > 10_000_000_000:
        await deployment.catalog.refresh()
        amounts += [each.nano_usd for each in deployment.catalog.snapshot.budgets if each.id == made["id"]]
    assert set(amounts) <= {15_000_000_000, 10_000_000_000}


async def test_two_budgets_of_one_rule_are_a_conflict(deployment: Any) -> None:
    body = budget("user", subject_id=(await user(deployment))["id"])
    await deployment.made(PATH, body)
    assert (await deployment.ask("POST", PATH, json=body)).status_code == 409


async def test_lists_are_paged_in_order_of_id(deployment: Any) -> None:
    person = await user(deployment)
    made = [
        (await deployment.made(PATH, budget("user", subject_id=person["id"], period=period)))["id"]
        for period in ("day", "week", "month", "once")
    ]
    found: list[str] = []
    after = ""
    while True:
        page = (await deployment.ask("GET", f"{PATH}?subject_id={person['id']}&limit=3{after}")).json()
        found += [each["id"] for each in page["items"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert found == made


async def test_a_balance_names_what_is_left_before_anything_was_spent(deployment: Any) -> None:
    person = await user(deployment)
    made = await deployment.made(PATH, budget("user", subject_id=person["id"], time_zone="Asia/Kathmandu"))
    (balance,) = (await deployment.ask("GET", f"{PATH}/{made['id']}/balance", "auditor")).json()["items"]
    assert (balance["subject"], balance["left_usd"], balance["spent_nano_usd"]) == (person["id"], "10.00", 0)
    assert balance["period_start"] < balance["resets_at"]


async def test_everybody_reads_back_what_holds_for_themselves_and_only_auditors_for_others(
    deployment: Any, endpoint_name: str
) -> None:
    person = await user(deployment)
    deployment.keys["person"] = (
        await deployment.made("/admin/v1/keys", {"principal_id": person["id"], "name": "k"})
    )["key"]
    await deployment.made(PATH, budget("user", subject_id=person["id"], usd="0.25", name="pocket"))
    mine = f"/admin/v1/effective?endpoint={endpoint_name}"
    assert (await deployment.ask("GET", mine, "person")).json()["permission"]["level"] is None
    told = (await deployment.ask("GET", f"{mine}&principal={person['name']}", "auditor")).json()
    assert told["permission"] == {"level": None, "rule": "default deny", "may_query": False}
    listed = (await deployment.ask("GET", "/admin/v1/endpoints")).json()["items"]
    endpoint = next(each for each in listed if each["name"] == endpoint_name)
    granted = await deployment.ask(
        "PUT",
        f"/admin/v1/endpoints/{endpoint['id']}/grants",
        json={"grantee_kind": "user", "grantee_id": person["id"], "level": "CAN_QUERY"},
    )
    assert granted.status_code < 300, granted.text
    answer = await deployment.ask("GET", mine, "person")
    assert answer.status_code == 200, answer.text
    own = answer.json()
    assert own["permission"]["level"] == "CAN_QUERY"
    assert own["permission"]["may_query"]
    (pocket,) = [each for each in own["rules"] if each["name"] == "pocket"]
    assert (pocket["kind"], pocket["amount_usd"], pocket["metric"]) == ("budget", "0.25", "nano_usd")
    assert own["counters"] in ("live", "away")
    assert (await deployment.ask("GET", f"{mine}&principal=admin", "person")).status_code == 403
    assert (await deployment.ask("GET", f"{mine}&principal=nobody", "auditor")).status_code == 404


async def test_a_webhook_secret_is_shown_once_and_kept_sealed(deployment: Any, owner_url: str) -> None:
    import asyncpg

    body = {"name": name("hook"), "url": "https://hooks.example.com/x"}
    answer = await deployment.ask("POST", "/admin/v1/webhooks", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    secret, details = answer.json()["secret"], answer.json()["details"]
    assert len(secret) >= 32
    path = f"/admin/v1/webhooks/{details['id']}"
    for place in (path, "/admin/v1/webhooks", f"/admin/v1/audit?object_id={details['id']}"):
        assert secret not in (await deployment.ask("GET", place)).text
    connection = await asyncpg.connect(owner_url)
    try:
        rows = await connection.fetch(
            "SELECT secret_sealed FROM gateway.webhooks WHERE id = $1", details["id"]
        )
    finally:
        await connection.close()
    assert all(secret.encode() not in row[0] for row in rows)
    # Another address never gets what the old one's secret signs.
    assert (await deployment.changed("PATCH", path, {"url": "https://other.example.com"})).status_code == 400
    fresh = {"url": "https://other.example.com", "secret": "s" * 40}
    assert (await deployment.changed("PATCH", path, fresh)).json()["url"] == fresh["url"]
    assert (await deployment.ask("GET", f"{path}/deliveries")).json()["items"] == []
    assert (await deployment.changed("DELETE", path)).status_code == 204


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/",
        "https://127.0.0.2/",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://2130706433/",
        "https://user:pass@hooks.example.com/",
        "https://good\\@169.254.169.254/",
        "https://hooks.example.com/#x",
        "ftp://hooks.example.com/",
        "https:///x",
        "https://exämple.com/",
    ],
)
async def test_events_go_to_no_private_or_doubtful_address(deployment: Any, url: str) -> None:
    answer = await deployment.ask("POST", "/admin/v1/webhooks", json={"name": name("hook"), "url": url})
    assert answer.status_code == 400, answer.text
    assert (
        await deployment.ask(
            "POST", "/admin/v1/webhooks", json={"name": name("hook"), "url": "http://127.0.0.1:9/x"}
        )
    ).status_code == 201
