"""Group managers and endpoint owners over HTTP: what is theirs works, what is not is refused and changes nothing."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest_asyncio


class Cast:
    """Two groups, two endpoints, and somebody who manages one of each."""

    def __init__(self, deployment: Any) -> None:
        self.deployment = deployment
        self.ids: dict[str, str] = {}

    async def prepare(self, endpoint_name: str) -> Cast:
        made = self.deployment.made
        tag = uuid4().hex[:8]
        for name in ("manager", "member", "outsider"):
            self.ids[name] = (await made("/admin/v1/users", {"name": f"{name}-{tag}"}))["id"]
        for name in ("own", "foreign", "bosses"):
            self.ids[name] = (await made("/admin/v1/groups", {"name": f"{name}-{tag}"}))["id"]
        found = await self.deployment.ask("GET", f"/admin/v1/endpoints?name={endpoint_name}")
        entity = {**found.json()["items"][0]["served_entities"][0]}
        entity.pop("id")
        for name in ("mine", "theirs"):
            body = {"name": f"{name}-{tag}", "served_entities": [entity]}
            self.ids[name] = (await made("/admin/v1/endpoints", body))["id"]
        key = await made("/admin/v1/keys", {"principal_id": self.ids["manager"]})
        self.deployment.keys["manager"] = key["key"]
        await made(f"/admin/v1/groups/{self.ids['own']}/managers", self.user("manager"))
        grant = {**self.grantee("manager"), "level": "CAN_MANAGE"}
        answer = await self.deployment.ask(
            "PUT", f"/admin/v1/endpoints/{self.ids['mine']}/grants", json=grant
        )
        assert answer.status_code == 200, answer.text
        return self

    def user(self, name: str) -> dict[str, str]:
        return {"member_kind": "user", "member_id": self.ids[name]}

    def grantee(self, name: str) -> dict[str, str]:
        return {"grantee_kind": "user", "grantee_id": self.ids[name]}

    async def ask(self, method: str, path: str, json: Any = None, as_: str = "manager") -> Any:
        return await self.deployment.ask(method, "/admin/v1" + path, as_, json=json)

    async def members(self, group: str) -> set[str]:
        answer = await self.ask("GET", f"/groups/{self.ids[group]}/members", as_="admin")
        return {each["member_id"] for each in answer.json()["items"]}

    async def grants(self, endpoint: str) -> dict[str, str]:
        answer = await self.ask("GET", f"/endpoints/{self.ids[endpoint]}/grants", as_="admin")
        return {each["grantee_id"]: each["level"] for each in answer.json()["items"]}


@pytest_asyncio.fixture(loop_scope="module")
async def cast(deployment: Any, endpoint_name: str) -> Cast:
    return await Cast(deployment).prepare(endpoint_name)


async def test_a_manager_changes_who_is_in_its_own_group_and_in_no_other(cast: Cast) -> None:
    own, foreign = (f"/groups/{cast.ids[each]}" for each in ("own", "foreign"))
    assert (await cast.ask("POST", f"{own}/members", cast.user("member"))).status_code == 201
    assert cast.ids["member"] in await cast.members("own")
    assert (await cast.ask("GET", f"{own}/members")).status_code == 200
    many = {"add": [cast.user("outsider")], "remove": [cast.ids["member"]]}
    answer = await cast.ask("POST", f"{own}/members:bulk", many)
    assert answer.json() == {"added": 1, "removed": 1}, answer.text
    assert await cast.members("own") == {cast.ids["outsider"]}
    assert (await cast.ask("DELETE", f"{own}/members/{cast.ids['outsider']}")).status_code == 204

    for method, path, body in (
        ("GET", f"{foreign}/members", None),
        ("POST", f"{foreign}/members", cast.user("member")),
        ("POST", f"{foreign}/members:bulk", {"add": [cast.user("member")]}),
        ("DELETE", f"{foreign}/members/{cast.ids['member']}", None),
        ("POST", f"{own}/managers", cast.user("member")),
        ("POST", "/groups", {"name": "more"}),
        ("PATCH", own, {"name": "renamed"}),
        ("DELETE", own, None),
        ("POST", "/keys", {"principal_id": cast.ids["member"]}),
        ("POST", "/limits", {}),
    ):
        answer = await cast.ask(method, path, body)
        assert answer.status_code == 403, f"{method} {path}: {answer.text}"
    assert not await cast.members("foreign")


async def test_many_members_are_changed_all_or_none(cast: Cast) -> None:
    own = f"/groups/{cast.ids['own']}"
    nobody = {"member_kind": "user", "member_id": str(uuid4())}
    answer = await cast.ask("POST", f"{own}/members:bulk", {"add": [cast.user("member"), nobody]})
    assert answer.status_code == 404
    both = {"add": [cast.user("member")], "remove": [cast.ids["member"]]}
    assert (await cast.ask("POST", f"{own}/members:bulk", both)).status_code == 400
    assert not await cast.members("own")


async def test_a_manager_cannot_hand_on_a_role_through_its_group(cast: Cast) -> None:
    """A group inside one that holds `admin` makes administrators of its members: only those change it."""
    from gateway.store.changes import Actor
    from gateway.store.reading import current
    from gateway.store.roles import set_roles
    from gateway.store.tables.identity import groups

    async with cast.deployment.configuration.change(Actor(None, "tests")) as change:
        bosses = await current(change.connection, groups, cast.ids["bosses"], "group")
        await set_roles(change, bosses, "group", frozenset({"admin"}))
    inner = {"member_kind": "group", "member_id": cast.ids["own"]}
    assert (
        await cast.ask("POST", f"/groups/{cast.ids['bosses']}/members", inner, "admin")
    ).status_code == 201
    answer = await cast.ask("POST", f"/groups/{cast.ids['own']}/members", cast.user("manager"))
    assert answer.status_code == 403
    assert "role 'admin'" in answer.json()["error"]["message"]
    bulk = {"add": [cast.user("manager")]}
    assert (await cast.ask("POST", f"/groups/{cast.ids['own']}/members:bulk", bulk)).status_code == 403
    assert not await cast.members("own")


async def test_members_hold_the_roles_of_their_groups_however_deep_as_long_as_they_are_in_them(
    cast: Cast,
) -> None:
    deployment, outer = cast.deployment, f"/admin/v1/groups/{cast.ids['foreign']}"
    inner = {"member_kind": "group", "member_id": cast.ids["own"]}
    assert (
        await cast.ask("POST", f"/groups/{cast.ids['foreign']}/members", inner, "admin")
    ).status_code == 201
    given = await deployment.changed("PATCH", outer, {"roles": ["auditor"]})
    assert given.json()["roles"] == ["auditor"]
    assert given.headers["etag"] == (await deployment.ask("GET", outer)).headers["etag"]
    assert (await cast.ask("GET", "/users")).status_code == 403
    members = f"/groups/{cast.ids['own']}/members"
    assert (await cast.ask("POST", members, cast.user("manager"), "admin")).status_code == 201
    assert (await cast.ask("GET", "/me")).json()["roles"] == ["auditor"]
    assert (await cast.ask("GET", "/users")).status_code == 200
    assert (await cast.ask("POST", "/users", {"name": "x"})).status_code == 403
    assert (await cast.ask("DELETE", f"{members}/{cast.ids['manager']}", as_="admin")).status_code == 204
    assert (await cast.ask("GET", "/users")).status_code == 403

    # A group whose members manage another: theirs by being in it.
    manages = {"member_kind": "group", "member_id": cast.ids["bosses"]}
    assert (
        await cast.ask("POST", f"/groups/{cast.ids['foreign']}/managers", manages, "admin")
    ).status_code == 201
    assert (await cast.ask("GET", f"/groups/{cast.ids['foreign']}/members")).status_code == 403
    assert (
        await cast.ask("POST", f"/groups/{cast.ids['bosses']}/members", cast.user("manager"), "admin")
    ).status_code == 201
    assert (await cast.ask("GET", f"/groups/{cast.ids['foreign']}/members")).status_code == 200


async def test_somebody_active_administers_whatever_is_taken_away(cast: Cast) -> None:
    deployment = cast.deployment
    me = (await deployment.ask("GET", "/admin/v1/me")).json()["id"]
    for row in (await deployment.ask("GET", "/admin/v1/groups?limit=200")).json()["items"]:
        if "admin" in row["roles"]:
            await deployment.changed("PATCH", f"/admin/v1/groups/{row['id']}", {"roles": []})
    bosses = f"/admin/v1/groups/{cast.ids['bosses']}"
    inside = {"member_kind": "user", "member_id": me}
    assert (await deployment.ask("POST", f"{bosses}/members", json=inside)).status_code == 201
    await deployment.changed("PATCH", bosses, {"roles": ["admin"]})
    user = f"/admin/v1/users/{me}"
    assert (await deployment.changed("PATCH", user, {"roles": []})).status_code == 200, (
        "its group administers"
    )
    for method, path, body in (
        ("DELETE", f"{bosses}/members/{me}", None),
        ("DELETE", bosses, None),
        ("PATCH", bosses, {"roles": []}),
        ("PATCH", user, {"active": False}),
    ):
        tag = {} if path.endswith(me) and method == "DELETE" else {"if_match": "*"}
        answer = await deployment.ask(method, path, json=body, **tag)
        assert answer.status_code == 409, f"{method} {path}: {answer.text}"
        assert "administrator" in answer.json()["error"]["message"]
    assert (await deployment.changed("PATCH", user, {"roles": ["admin"]})).status_code == 200
    assert (await deployment.changed("PATCH", bosses, {"roles": []})).status_code == 200


async def test_an_owner_shares_its_endpoint_by_every_route_and_no_other_endpoint_by_any(cast: Cast) -> None:
    mine, theirs = (f"/endpoints/{cast.ids[each]}/grants" for each in ("mine", "theirs"))
    grant = {**cast.grantee("member"), "level": "CAN_QUERY"}
    assert (await cast.ask("PUT", mine, grant)).status_code == 200
    assert (await cast.ask("GET", mine)).status_code == 200
    bulk: list[dict[str, str | None]] = [
        {"endpoint_id": cast.ids["mine"], **cast.grantee("outsider"), "level": "CAN_VIEW"}
    ]
    bulk.append({"endpoint_id": cast.ids["mine"], **cast.grantee("member"), "level": None})
    answer = await cast.ask("POST", "/grants:bulk", {"grants": bulk})
    assert answer.status_code == 200, answer.text
    assert await cast.grants("mine") == {
        cast.ids["manager"]: "CAN_MANAGE",
        cast.ids["outsider"]: "CAN_VIEW",
    }

    over = [*bulk[:1], {"endpoint_id": cast.ids["theirs"], **cast.grantee("manager"), "level": "CAN_VIEW"}]
    for method, path, body in (
        ("GET", theirs, None),
        ("PUT", theirs, grant),
        ("POST", "/grants:bulk", {"grants": over}),
        ("DELETE", f"{theirs}/{uuid4()}", None),
        ("PATCH", f"/endpoints/{cast.ids['mine']}", {"description": "mine"}),
        ("DELETE", f"/endpoints/{cast.ids['mine']}", None),
    ):
        answer = await cast.ask(method, path, body)
        assert answer.status_code == 403, f"{method} {path}: {answer.text}"
    assert not await cast.grants("theirs")


async def test_a_level_below_manage_shares_nothing(cast: Cast) -> None:
    mine = f"/endpoints/{cast.ids['mine']}/grants"
    await cast.ask("PUT", mine, {**cast.grantee("manager"), "level": "CAN_QUERY"}, "admin")
    for level in ("CAN_VIEW", "CAN_QUERY", "CAN_MANAGE"):
        answer = await cast.ask("PUT", mine, {**cast.grantee("member"), "level": level})
        assert answer.status_code == 403
    assert await cast.grants("mine") == {cast.ids["manager"]: "CAN_QUERY"}
