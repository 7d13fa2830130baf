"""Idempotency-Key on the admin API: one request changes something once, whoever repeats it and when."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import func, select

from gateway.store.tables.identity import groups
from gateway.store.tables.made_once import changes_made_once
from tests.admin.conftest import Deployment

GROUPS = "/admin/v1/groups"


def fresh() -> str:
    return uuid4().hex


async def count(deployment: Deployment, name: str) -> int:
    async with deployment.configuration.reading() as connection:
        versions = select(func.count()).select_from(groups).where(groups.c.name == name)
        return (await connection.execute(versions)).scalar_one()


async def test_the_same_request_again_gets_the_first_answer_and_changes_nothing(
    deployment: Deployment,
) -> None:
    key, body = fresh(), {"name": f"once-{fresh()}"}
    first = await deployment.ask("POST", GROUPS, json=body, idempotency_key=key)
    again = await deployment.ask("POST", GROUPS, json=body, idempotency_key=key)
    assert first.status_code == again.status_code == 201
    assert again.json() == first.json()
    assert again.headers["etag"] == first.headers["etag"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert await count(deployment, body["name"]) == 1

    path, tag = f"{GROUPS}/{first.json()['id']}", first.headers["etag"]
    for _ in range(2):
        answer = await deployment.ask("DELETE", path, if_match=tag, idempotency_key=f"{key}-gone")
        assert (answer.status_code, answer.content) == (204, b"")


async def test_another_request_under_the_same_key_is_refused(deployment: Deployment) -> None:
    key, name = fresh(), f"once-{fresh()}"
    assert (await deployment.ask("POST", GROUPS, json={"name": name}, idempotency_key=key)).status_code == 201
    for path, body in ((GROUPS, {"name": f"{name}-2"}), ("/admin/v1/users", {"name": name})):
        answer = await deployment.ask("POST", path, json=body, idempotency_key=key)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "idempotency_other_body")
    assert await count(deployment, f"{name}-2") == 0
    for wrong in ("", "x" * 256, "t\tab"):
        answer = await deployment.ask("POST", GROUPS, json={"name": name}, idempotency_key=wrong)
        assert answer.status_code == 400, wrong


async def test_a_failed_change_leaves_its_key_free(deployment: Deployment) -> None:
    key, name = fresh(), f"once-{fresh()}"
    taken = await deployment.made(GROUPS, {"name": name})
    answer = await deployment.ask("POST", GROUPS, json={"name": name}, idempotency_key=key)
    assert answer.status_code == 409
    await deployment.changed("DELETE", f"{GROUPS}/{taken['id']}")
    answer = await deployment.ask("POST", GROUPS, json={"name": name}, idempotency_key=key)
    assert answer.status_code == 201, "what failed was never made"


async def test_of_many_at_the_same_time_one_changes_something(deployment: Deployment) -> None:
    key, name = fresh(), f"once-{fresh()}"
    answers = await asyncio.gather(
        *(deployment.ask("POST", GROUPS, json={"name": name}, idempotency_key=key) for _ in range(4))
    )
    codes = {each.status_code for each in answers}
    assert 201 in codes
    assert codes <= {201, 409}
    assert all(
        each.json()["error"]["code"] == "idempotency_in_flight" for each in answers if each.status_code == 409
    )
    assert len({each.json()["id"] for each in answers if each.status_code == 201}) == 1
    assert await count(deployment, name) == 1


async def test_keys_of_two_callers_have_nothing_to_do_with_each_other(deployment: Deployment) -> None:
    key = fresh()
    made = [
        await deployment.ask("POST", "/admin/v1/me/keys", who, json={}, idempotency_key=key)
        for who in ("admin", "demo")
    ]
    assert [each.status_code for each in made] == [201, 201]
    assert len({each.json()["key"] for each in made}) == 2


async def test_a_secret_is_never_kept(deployment: Deployment) -> None:
    hook = {"name": fresh(), "url": "https://hooks.example.com/x"}
    for path, body, field in (
        ("/admin/v1/me/keys", {"name": "ci"}, "key"),
        ("/admin/v1/webhooks", hook, "secret"),
    ):
        key = fresh()
        first = await deployment.ask("POST", path, json=body, idempotency_key=key)
        again = await deployment.ask("POST", path, json=body, idempotency_key=key)
        secret = first.json()[field]
        assert secret
        assert again.json() == {**first.json(), field: None}
        assert again.headers["cache-control"] == "no-store"
        async with deployment.configuration.reading() as connection:
            kept: Any = (await connection.execute(select(changes_made_once))).all()
        assert secret not in repr(kept)


async def test_an_answer_that_cannot_be_kept_undoes_the_change(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Any) -> bytes:
        raise RuntimeError("no answer")

    monkeypatch.setattr("gateway.http.admin.once._shown", broken)
    key, name = fresh(), f"once-{fresh()}"
    answer = await deployment.ask("POST", GROUPS, json={"name": name}, idempotency_key=key)
    assert answer.status_code == 500
    monkeypatch.undo()
    assert await count(deployment, name) == 0
    answer = await deployment.ask("POST", GROUPS, json={"name": name}, idempotency_key=key)
    assert answer.status_code == 201, "neither the change nor its lock was left behind"


async def test_after_a_day_a_key_is_forgotten(deployment: Deployment, owner_url: str) -> None:
    import asyncpg

    key, name = fresh(), f"once-{fresh()}"
    made = await deployment.ask("POST", GROUPS, json={"name": name}, idempotency_key=key)
    connection = await asyncpg.connect(owner_url)
    await connection.execute(
        "UPDATE gateway.changes_made_once SET made_at = now() - interval '25 hours' WHERE key = $1", key
    )
    await connection.close()
    await deployment.changed("DELETE", f"{GROUPS}/{made.json()['id']}")
    answer = await deployment.ask("POST", GROUPS, json={"name": name}, idempotency_key=key)
    assert (answer.status_code, answer.headers.get("idempotent-replayed")) == (201, None)
