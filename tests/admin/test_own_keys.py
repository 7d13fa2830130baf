"""Everybody's own keys over HTTP, and the rotation of keys: nothing reaches further than what it was made with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from gateway.store import api_keys as store
from gateway.store.tables.identity import api_keys
from tests.admin.conftest import Deployment

MINE = "/admin/v1/me/keys"


async def someone(deployment: Deployment, name: str, /, **key: Any) -> dict[str, Any]:
    """A user with a key, by which it is asked as from then on."""
    user = await deployment.made("/admin/v1/users", {"name": f"{name}-{datetime.now(UTC).timestamp()}"})
    made = await deployment.made("/admin/v1/keys", {"principal_id": user["id"], **key})
    deployment.keys[name] = made["key"]
    return made["details"]


async def own(deployment: Deployment, who: str, **wanted: Any) -> Any:
    answer = await deployment.ask("POST", MINE, who, json=wanted)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def works(deployment: Deployment, key: str) -> bool:
    answer = await deployment.client.get("/v1/models", headers={"authorization": f"Bearer {key}"})
    return answer.status_code != 401


async def rotate(deployment: Deployment, key_id: str, who: str = "admin", path: str = "/admin/v1/keys", **body: Any) -> Any:  # fmt: skip
    tag = (await deployment.ask("GET", f"{path}/{key_id}", who)).headers["etag"]
    return await deployment.ask("POST", f"{path}/{key_id}/rotate", who, json=body, if_match=tag)


async def test_a_principal_makes_lists_and_revokes_its_own_keys(deployment: Deployment) -> None:
    await someone(deployment, "ann")
    made = await own(deployment, "ann", name="notebook")
    assert await works(deployment, made["key"])
    assert (made["details"]["planes"], made["details"]["priority"]) == (["data"], "interactive")
    listed = (await deployment.ask("GET", MINE, "ann")).json()["items"]
    assert made["details"]["id"] in {each["id"] for each in listed}
    assert "key" not in str([sorted(each) for each in listed])
    answer = await deployment.changed("DELETE", f"{MINE}/{made['details']['id']}", as_="ann")
    assert (answer.status_code, answer.json()["revoked_at"] is not None) == (200, True)
    assert not await works(deployment, made["key"])


async def test_keys_of_others_are_not_there(deployment: Deployment) -> None:
    await someone(deployment, "ann")
    other = await someone(deployment, "bob")
    for method, path in (
        ("GET", f"{MINE}/{other['id']}"),
        ("DELETE", f"{MINE}/{other['id']}"),
        ("POST", f"{MINE}/{other['id']}/rotate"),
    ):
        body = {} if method == "POST" else None
        answer = await deployment.ask(method, path, "ann", json=body, if_match="*")
        assert answer.status_code == 404, f"{method} {path}: {answer.text}"
    assert await works(deployment, deployment.keys["bob"])
    listed = (await deployment.ask("GET", MINE, "ann")).json()["items"]
    assert other["id"] not in {each["id"] for each in listed}


@pytest.mark.parametrize(
    ("held", "wanted", "status"),
    [
        ({"planes": ["control"]}, {"planes": ["data"]}, 403),
        ({"planes": ["control"]}, {"planes": ["control"]}, 201),
        ({"endpoints": []}, {}, 403),
        ({"endpoints": []}, {"endpoints": []}, 201),
        ({"priority": "batch"}, {}, 403),
        ({"priority": "batch"}, {"priority": "batch"}, 201),
        ({"expires_at": "2098-01-01T00:00:00Z"}, {"expires_at": "2099-01-01T00:00:00Z"}, 400),
        ({"expires_at": "2098-01-01T00:00:00Z"}, {"expires_at": "2097-01-01T00:00:00Z"}, 201),
        ({}, {"principal_id": "00000000-0000-7000-8000-000000000001"}, 400),
        ({"planes": ["data"]}, {}, 403),
    ],
)
async def test_an_own_key_reaches_no_further_than_the_one_it_is_made_with(
    deployment: Deployment, held: dict[str, Any], wanted: dict[str, Any], status: int
) -> None:
    await someone(deployment, "ann", **held)
    answer = await deployment.ask("POST", MINE, "ann", json=wanted)
    assert answer.status_code == status, answer.text


async def test_an_own_key_ends_with_its_maker_and_shares_its_limits(deployment: Deployment) -> None:
    first = await someone(deployment, "ann", expires_at="2098-01-01T00:00:00Z")
    made = (await own(deployment, "ann"))["details"]
    assert made["expires_at"] == first["expires_at"]
    assert made["counts_as"] == first["id"]
    token = (await deployment.ask("POST", "/admin/v1/sessions", "ann")).json()["token"]
    answer = await deployment.client.post(MINE, json={}, headers={"authorization": f"Bearer {token}"})
    assert answer.json()["details"]["expires_at"] == first["expires_at"]
    limit = {
        "scope": "key",
        "subject_id": made["id"],
        "metric": "requests",
        "amount": 5,
        "window": "rolling:60000",
    }
    assert (await deployment.made("/admin/v1/limits", limit))["subject_id"] == first["id"]


async def test_nobody_makes_keys_without_end(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    await someone(deployment, "ann")
    monkeypatch.setattr(store, "MOST_IN_FORCE", 2)
    made = await own(deployment, "ann")
    answer = await deployment.ask("POST", MINE, "ann", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "too_many_keys")
    await deployment.changed("DELETE", f"{MINE}/{made['details']['id']}", as_="ann")
    monkeypatch.setattr(store, "MOST_A_DAY", 1)
    answer = await deployment.ask("POST", MINE, "ann", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "too_many_keys")


async def test_a_rotated_key_is_like_the_old_one_which_works_for_the_overlap(
    deployment: Deployment, endpoint_name: str
) -> None:
    endpoint = (await deployment.ask("GET", f"/admin/v1/endpoints?name={endpoint_name}")).json()["items"][0]
    ends = (datetime.now(UTC) + timedelta(days=90)).isoformat()
    old = await someone(
        deployment, "ann", name="ci", planes=["data"], endpoints=[endpoint["id"]], priority="batch", expires_at=ends
    )  # fmt: skip
    answer = await rotate(deployment, old["id"], overlap_seconds=3600)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    new, replaced = answer.json()["details"], answer.json()["replaced"]
    for same in ("principal_id", "name", "planes", "endpoints", "priority"):
        assert new[same] == old[same], same
    assert (new["replaces"], new["counts_as"]) == (old["id"], old["id"])
    lifetime = datetime.fromisoformat(new["expires_at"]) - datetime.fromisoformat(new["created_at"])
    assert abs(lifetime - timedelta(days=90)) < timedelta(minutes=1)
    left = datetime.fromisoformat(replaced["expires_at"]) - datetime.fromisoformat(new["created_at"])
    assert abs(left - timedelta(hours=1)) < timedelta(seconds=1)
    assert await works(deployment, deployment.keys["ann"])
    assert await works(deployment, answer.json()["key"])


async def test_without_an_overlap_the_old_key_ends_at_once_and_is_rotated_no_more(
    deployment: Deployment,
) -> None:
    old = await someone(deployment, "ann")
    assert await works(deployment, deployment.keys["ann"])
    answer = await rotate(deployment, old["id"], overlap_seconds=0)
    assert not await works(deployment, deployment.keys["ann"])
    assert await works(deployment, answer.json()["key"])
    assert (await rotate(deployment, old["id"])).status_code == 409
    assert (await rotate(deployment, answer.json()["details"]["id"], overlap_seconds=-1)).status_code == 400


async def test_rotating_ones_own_key_never_widens_or_prolongs_it(deployment: Deployment) -> None:
    first = await someone(deployment, "ann", expires_at="2098-01-01T00:00:00Z")
    narrow = await own(deployment, "ann", planes=["control"], expires_at="2090-01-01T00:00:00Z")
    deployment.keys["narrow"] = narrow["key"]
    answer = await rotate(deployment, first["id"], "narrow", MINE)
    assert answer.status_code == 403, "its planes are more than those of the key that asks"
    answer = await rotate(deployment, narrow["details"]["id"], "narrow", MINE)
    assert answer.json()["details"]["expires_at"] == narrow["details"]["expires_at"]


async def test_the_overlap_ends_by_itself(deployment: Deployment) -> None:
    old = await someone(deployment, "ann")
    answer = await rotate(deployment, old["id"], overlap_seconds=86_400)
    async with deployment.configuration.reading() as connection:
        current = api_keys.c.to_change.is_(None)
        row = (
            (await connection.execute(select(api_keys).where(api_keys.c.id == old["id"], current)))
            .mappings()
            .one()
        )
    assert row["expires_at"] - row["valid_from"] == timedelta(days=1)
    assert answer.json()["replaced"]["revoked_at"] is None
