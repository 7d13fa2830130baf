"""What an administrator changes: versioned, audited in the same transaction, and seen at once."""

from __future__ import annotations

import asyncio
from itertools import count, pairwise
from typing import Any

import pytest

from gateway.store import audit_check
from gateway.store.changes import Actor
from gateway.store.endpoints import endpoint_named
from gateway.store.principals import create_principal
from gateway.store.tables.audit import audit_entries
from gateway.store.tables.catalog import endpoints
from gateway.store.tables.identity import principals

numbers = count()


def name(stem: str = "thing") -> str:
    return f"{stem}-{next(numbers)}"


async def test_a_key_is_shown_once_works_at_once_and_ends_at_its_revocation(deployment: Any) -> None:
    user = await deployment.made("/admin/v1/users", {"name": name("alice")})
    answer = await deployment.ask(
        "POST", "/admin/v1/keys", json={"principal_id": user["id"], "name": "notebook"}
    )
    assert answer.headers["cache-control"] == "no-store"
    made = answer.json()
    text = deployment.keys["alice"] = made["key"]
    assert (await deployment.ask("GET", "/admin/v1/me", "alice")).json()["name"] == user["name"]
    listed = await deployment.ask("GET", f"/admin/v1/keys?principal_id={user['id']}")
    assert [each["id"] for each in listed.json()["items"]] == [made["details"]["id"]]
    secret = text.split("_")[3]
    assert secret not in listed.text
    assert secret not in (await deployment.ask("GET", "/admin/v1/audit?limit=200")).text
    revoked = await deployment.changed("DELETE", f"/admin/v1/keys/{made['details']['id']}")
    assert revoked.json()["revoked_at"] is not None
    assert (await deployment.ask("GET", "/admin/v1/me", "alice")).status_code == 401


async def test_every_change_is_one_chained_entry_that_says_who_and_what(deployment: Any) -> None:
    before = (await deployment.ask("GET", "/admin/v1/audit?limit=1")).json()["items"][0]["number"]
    path = "/admin/v1/groups"
    group = await deployment.made(path, {"name": name("group"), "description": "one"})
    path = f"{path}/{group['id']}"
    await deployment.changed("PATCH", path, {"description": "two"})
    await deployment.changed("DELETE", path)
    entries = (await deployment.ask("GET", f"/admin/v1/audit?object_id={group['id']}")).json()["items"]
    assert [each["action"] for each in entries] == ["group.delete", "group.update", "group.create"]
    assert all(each["actor"].startswith("admin (") for each in entries)
    assert (entries[1]["before"]["description"], entries[1]["after"]["description"]) == ("one", "two")
    assert entries[0]["after"] is None
    async with deployment.configuration.reading() as connection:
        verdict = await audit_check.verify(connection, deployment.chain_key)
    assert verdict.bad is None
    assert verdict.head.number == before + 3


async def test_a_change_that_fails_leaves_neither_version_nor_entry(deployment: Any) -> None:
    async def counted() -> tuple[int, int]:
        async with deployment.configuration.reading() as connection:
            people = len((await connection.execute(principals.select())).all())
            entries = len((await connection.execute(audit_entries.select())).all())
        return people, entries

    before = await counted()

    async def fail() -> None:
        async with deployment.configuration.change(Actor(None, "tests")) as change:
            await create_principal(change, "user", {"name": name()})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert await counted() == before


async def test_the_past_can_be_read_back(deployment: Any) -> None:
    user = await deployment.made("/admin/v1/users", {"name": name("bob"), "display_name": "first"})
    path = f"/admin/v1/users/{user['id']}"
    await deployment.changed("PATCH", path, {"display_name": "second"})
    await deployment.changed("PATCH", path, {"active": False})
    async with deployment.configuration.reading() as connection:
        query = principals.select().where(principals.c.id == user["id"]).order_by(principals.c.from_change)
        versions = (await connection.execute(query)).all()
    assert [(row.display_name, row.active) for row in versions] == [
        ("first", True),
        ("second", True),
        ("second", False),
    ]
    for earlier, later in pairwise(versions):
        assert (earlier.to_change, earlier.valid_to) == (later.from_change, later.valid_from)
    assert versions[-1].to_change is None


async def test_a_change_made_for_another_version_does_nothing(deployment: Any) -> None:
    user = await deployment.made("/admin/v1/users", {"name": name("carol")})
    path = f"/admin/v1/users/{user['id']}"
    old = (await deployment.ask("GET", path)).headers["etag"]
    unsaid = await deployment.ask("PATCH", path, json={"active": False})
    assert (unsaid.status_code, unsaid.json()["error"]["code"]) == (428, "precondition_required")
    assert (await deployment.ask("PATCH", path, json={"active": False}, if_match=old)).status_code == 200
    late = await deployment.ask("PATCH", path, json={"active": True}, if_match=old)
    assert (late.status_code, late.json()["error"]["code"]) == (412, "version_mismatch")
    assert (await deployment.ask("DELETE", path, if_match=old)).status_code == 412
    assert (await deployment.ask("GET", path)).json()["active"] is False


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/admin/v1/users", {"name": "x", "is_admin": True}),
        ("POST", "/admin/v1/users", {"name": "x", "budget": 10}),
        (
            "POST",
            "/admin/v1/keys",
            {"principal_id": "00000000-0000-7000-8000-000000000000", "allowed_routes": ["*"]},
        ),
        (
            "POST",
            "/admin/v1/limits",
            {"scope": "user_default", "metric": "requests", "amount": 1, "owner": "me"},
        ),
        ("POST", "/admin/v1/groups", {}),
        ("POST", "/admin/v1/groups", {"name": "nul\u0000"}),
        ("POST", "/admin/v1/groups", {"name": ""}),
        (
            "POST",
            "/admin/v1/limits",
            {"scope": "user", "metric": "requests", "window": "rolling:60000", "amount": 1},
        ),
        (
            "POST",
            "/admin/v1/limits",
            {"scope": "user_default", "metric": "requests", "window": "rolling:1", "amount": 1},
        ),
        (
            "POST",
            "/admin/v1/limits",
            {"scope": "user_default", "metric": "requests", "window": "calendar:day:Mars", "amount": 1},
        ),
        ("POST", "/admin/v1/limits", {"scope": "user_default", "metric": "requests", "amount": 1}),
        (
            "POST",
            "/admin/v1/limits",
            {"scope": "user_default", "metric": "requests", "window": "rolling:60000", "amount": -1},
        ),
        ("POST", "/admin/v1/endpoints", {"name": "x", "served_entities": []}),
        ("GET", "/admin/v1/users?limit=100000", None),
        ("GET", "/admin/v1/users?after=x", None),
    ],
)
async def test_what_is_not_understood_is_refused_whole(
    deployment: Any, method: str, path: str, body: Any
) -> None:
    answer = await deployment.ask(method, path, json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"name": "one", "name": "two"}', "duplicate_key"),
        (b'{"name": "one",}', "invalid_json"),
        (b'["name"]', "invalid_json"),
        (b'{"name": "\\ud800"}', "invalid_json"),
        (b'{"name": "\xff"}', "invalid_json"),
    ],
)
async def test_a_body_that_reads_in_two_ways_is_refused(deployment: Any, body: bytes, code: str) -> None:
    headers = {"authorization": f"Bearer {deployment.keys['admin']}", "content-type": "application/json"}
    answer = await deployment.client.post("/admin/v1/groups", content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


async def test_a_plain_user_changes_nothing_of_himself(deployment: Any) -> None:
    me = (await deployment.ask("GET", "/admin/v1/me", "demo")).json()
    for method, path, body in (
        ("PATCH", f"/admin/v1/users/{me['id']}", {"roles": ["admin"]}),
        ("POST", "/admin/v1/keys", {"principal_id": me["id"]}),
        (
            "POST",
            "/admin/v1/limits",
            {"scope": "user", "subject_id": me["id"], "metric": "requests", "amount": 10**9},
        ),
    ):
        answer = await deployment.ask(method, path, "demo", json=body, if_match="*")
        assert answer.status_code == 403
        assert "demo" in answer.json()["error"]["message"]


async def test_a_group_is_never_inside_itself(deployment: Any) -> None:
    ids = [(await deployment.made("/admin/v1/groups", {"name": name("nested")}))["id"] for _ in range(3)]
    for outer, inner in pairwise(ids):
        await deployment.made(
            f"/admin/v1/groups/{outer}/members", {"member_kind": "group", "member_id": inner}
        )
    for outer, inner in ((ids[2], ids[0]), (ids[1], ids[0]), (ids[0], ids[0])):
        answer = await deployment.ask(
            "POST", f"/admin/v1/groups/{outer}/members", json={"member_kind": "group", "member_id": inner}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "group_cycle")


async def test_names_are_taken_whatever_their_case(deployment: Any) -> None:
    taken = name("Taken")
    await deployment.made("/admin/v1/users", {"name": taken})
    for path in ("/admin/v1/users", "/admin/v1/service-principals"):
        answer = await deployment.ask("POST", path, json={"name": taken.upper()})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")


async def test_the_last_administrator_stays_and_nobody_deletes_himself(deployment: Any) -> None:
    me = (await deployment.ask("GET", "/admin/v1/me")).json()
    path = f"/admin/v1/users/{me['id']}"
    assert (await deployment.changed("PATCH", path, {"roles": []})).status_code == 409
    assert (await deployment.changed("DELETE", path)).status_code == 409
    assert (await deployment.ask("GET", "/admin/v1/me")).json()["roles"] == ["admin"]


async def test_pages_hold_every_object_once(deployment: Any) -> None:
    made = {(await deployment.made("/admin/v1/groups", {"name": name("page")}))["id"] for _ in range(5)}
    seen: list[str] = []
    after = ""
    while True:
        page = (await deployment.ask("GET", f"/admin/v1/groups?limit=2{after}")).json()
        assert len(page["items"]) <= 2
        seen += [each["id"] for each in page["items"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert len(seen) == len(set(seen))
    assert made <= set(seen)
    assert seen == sorted(seen)


async def test_a_deleted_user_takes_what_he_had_with_him(deployment: Any, endpoint_name: str) -> None:
    user = await deployment.made("/admin/v1/users", {"name": name("dave")})
    endpoint = (await deployment.ask("GET", f"/admin/v1/endpoints?name={endpoint_name}")).json()["items"][0]
    grants = f"/admin/v1/endpoints/{endpoint['id']}/grants"
    given = await deployment.ask(
        "PUT", grants, json={"grantee_kind": "user", "grantee_id": user["id"], "level": "CAN_QUERY"}
    )
    assert given.status_code == 200
    limit = await deployment.made(
        "/admin/v1/limits",
        {
            "scope": "user",
            "subject_id": user["id"],
            "metric": "requests",
            "window": "rolling:60000",
            "amount": 5,
        },
    )
    deployment.keys["dave"] = (await deployment.made("/admin/v1/keys", {"principal_id": user["id"]}))["key"]
    snapshot = deployment.catalog.snapshot
    assert user["id"] in snapshot.grants[endpoint["id"]]
    assert any(each.id == limit["id"] for each in snapshot.limits)
    assert (await deployment.changed("DELETE", f"/admin/v1/users/{user['id']}")).status_code == 204
    assert (await deployment.ask("GET", "/admin/v1/me", "dave")).status_code == 401
    snapshot = deployment.catalog.snapshot
    assert user["id"] not in snapshot.grants[endpoint["id"]]
    assert not any(each.id == limit["id"] for each in snapshot.limits)


async def test_a_price_is_corrected_by_an_entry_never_by_an_edit(deployment: Any, endpoint_name: str) -> None:
    endpoint = (await deployment.ask("GET", f"/admin/v1/endpoints?name={endpoint_name}")).json()["items"][0]
    entity = endpoint["served_entities"][0]["id"]
    classes = ("input", "cache_read", "cache_write", "output", "reasoning")
    wrong = await deployment.made(
        "/admin/v1/prices", {"served_entity_id": entity, **dict.fromkeys(classes, 9)}
    )

    def price() -> int:
        return deployment.catalog.snapshot.endpoints[endpoint_name].entities[0].price.input

    assert price() == 9
    body = {"served_entity_id": entity, "corrects": wrong["id"], "effective_from": wrong["effective_from"]}
    await deployment.made("/admin/v1/prices", {**body, **dict.fromkeys(classes, 7)})
    assert price() == 7
    again = await deployment.ask("POST", "/admin/v1/prices", json={**body, **dict.fromkeys(classes, 5)})
    assert again.status_code == 400
    later = {
        "served_entity_id": entity,
        "effective_from": "2099-01-01T00:00:00Z",
        **dict.fromkeys(classes, 1),
    }
    await deployment.made("/admin/v1/prices", later)
    assert price() == 7


async def test_an_endpoints_version_covers_its_entities(deployment: Any) -> None:
    entity = {"name": "one", "kind": "local", "provider": "vllm", "model": "mixtral-demo"}
    made = await deployment.made(
        "/admin/v1/endpoints", {"name": name("endpoint"), "served_entities": [entity]}
    )
    path = f"/admin/v1/endpoints/{made['id']}"
    old = (await deployment.ask("GET", path)).headers["etag"]
    split = [
        {**entity, "traffic_percent": 60},
        {**entity, "name": "two", "traffic_percent": 40, "fallback_position": 1},
    ]
    changed = await deployment.ask("PATCH", path, json={"served_entities": split}, if_match=old)
    assert changed.status_code == 200, changed.text
    assert changed.headers["etag"] != old
    endpoint = deployment.catalog.snapshot.endpoints[made["name"]]
    assert (endpoint.split, endpoint.fallbacks) == ((("one", 60), ("two", 40)), ("two",))
    assert (
        await deployment.ask("PATCH", path, json={"served_entities": [entity]}, if_match=old)
    ).status_code == 412
    uneven = await deployment.changed("PATCH", path, {"served_entities": [{**entity, "traffic_percent": 60}]})
    assert (uneven.status_code, uneven.json()["error"]["param"]) == (400, "served_entities")


async def test_changes_come_one_after_the_other(deployment: Any, endpoint_name: str) -> None:
    async def rename(number: int) -> None:
        async with deployment.configuration.change(Actor(None, f"writer {number}")) as change:
            row = await endpoint_named(change, endpoint_name)
            await change.revise(endpoints, "endpoint", row, description=f"by writer {number}")

    await asyncio.gather(*(rename(number) for number in range(12)))
    await deployment.catalog.refresh()
    assert deployment.catalog.snapshot.endpoints[endpoint_name].description.startswith("by writer")


async def test_a_key_never_makes_one_that_reaches_further(deployment: Any, endpoint_name: str) -> None:
    me = (await deployment.ask("GET", "/admin/v1/me")).json()
    endpoint = (await deployment.ask("GET", f"/admin/v1/endpoints?name={endpoint_name}")).json()["items"][0]
    control_only = await deployment.made("/admin/v1/keys", {"principal_id": me["id"], "planes": ["control"]})
    confined = await deployment.made(
        "/admin/v1/keys", {"principal_id": me["id"], "endpoints": [endpoint["id"]]}
    )
    deployment.keys |= {"control": control_only["key"], "confined": confined["key"]}
    wider = await deployment.ask("POST", "/admin/v1/keys", "control", json={"principal_id": me["id"]})
    assert (wider.status_code, wider.json()["error"]["code"]) == (403, "permission_denied")
    same = await deployment.ask(
        "POST", "/admin/v1/keys", "control", json={"principal_id": me["id"], "planes": ["control"]}
    )
    assert same.status_code == 201
    assert (await deployment.ask("GET", "/admin/v1/users", "confined")).status_code == 403
    assert (await deployment.ask("GET", "/admin/v1/me", "confined")).status_code == 200
