"""The gateway's own tokens: made from a key, ended with it, and never a way to prolong themselves."""

from __future__ import annotations

import time
from typing import Any

import pytest

from gateway.errors import Unauthenticated
from gateway.security.sessions import SECONDS, Sessions
from gateway.security.tokens import peek
from tests.identity.signing import raw

KEY_ID = "00000000-0000-7000-8000-00000000000a"
PRINCIPAL_ID = "00000000-0000-7000-8000-00000000000b"


def read(sessions: Sessions, text: str) -> Any:
    seen = peek(text)
    if seen is None:
        raise Unauthenticated
    return sessions.read(text, seen)


async def signed_in(deployment: Any, who: str) -> str:
    answer = await deployment.ask("POST", "/admin/v1/sessions", who)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()["token"]


async def me(deployment: Any, token: str) -> Any:
    return await deployment.client.get("/admin/v1/me", headers={"authorization": f"Bearer {token}"})


def test_a_token_ends_after_fifteen_minutes_and_never_after_its_key() -> None:
    now = [1_000_000.0]
    sessions = Sessions({1: b"k" * 32}, lambda: now[0])
    text, ends = sessions.issue(KEY_ID, PRINCIPAL_ID)
    assert ends == 1_000_000 + SECONDS
    assert read(sessions, text).key_id == KEY_ID
    now[0] += SECONDS
    with pytest.raises(Unauthenticated):
        read(sessions, text)
    assert sessions.issue(KEY_ID, PRINCIPAL_ID, at_most=int(now[0]) + 10)[1] == int(now[0]) + 10


def test_an_older_version_of_the_master_key_still_verifies_and_a_gone_one_does_not() -> None:
    old = Sessions({1: b"a" * 32}, time.time)
    text, _ = old.issue(KEY_ID, PRINCIPAL_ID)
    assert read(Sessions({1: b"a" * 32, 2: b"b" * 32}, time.time), text)
    for others in ({2: b"b" * 32}, {1: b"b" * 32}):
        with pytest.raises(Unauthenticated):
            read(Sessions(others, time.time), text)


def test_nothing_but_our_own_token_is_read_as_one() -> None:
    sessions = Sessions({1: b"a" * 32}, time.time)
    text, _ = sessions.issue(KEY_ID, PRINCIPAL_ID)
    head, body, signature = text.split(".")
    for other in (
        text[:-4] + "AAAA",
        f"{head}.{body}.",
        f"{head}.{head}.{signature}",
        raw({"alg": "none", "kid": "1"}, {"iss": "urn:weighbridge:session"}),
    ):
        with pytest.raises(Unauthenticated):
            read(sessions, other)


async def test_a_token_does_what_its_key_does(deployment: Any) -> None:
    token = await signed_in(deployment, "admin")
    answer = (await me(deployment, token)).json()
    assert answer["name"] == "admin"
    assert answer["key_id"] == (await deployment.ask("GET", "/admin/v1/me")).json()["key_id"]
    listed = await deployment.client.get("/admin/v1/users", headers={"authorization": f"Bearer {token}"})
    assert listed.status_code == 200
    demo = await signed_in(deployment, "demo")
    listed = await deployment.client.get("/admin/v1/users", headers={"authorization": f"Bearer {demo}"})
    assert listed.status_code == 403


async def test_a_token_makes_no_other_token(deployment: Any) -> None:
    token = await signed_in(deployment, "demo")
    again = await deployment.client.post("/admin/v1/sessions", headers={"authorization": f"Bearer {token}"})
    assert again.status_code == 403


async def test_a_token_ends_with_its_key_and_with_its_principal(deployment: Any) -> None:
    user = await deployment.made("/admin/v1/users", {"name": "sessions-user"})
    key = await deployment.made("/admin/v1/keys", {"principal_id": user["id"]})
    other = await deployment.made("/admin/v1/keys", {"principal_id": user["id"]})
    deployment.keys |= {"first": key["key"], "other": other["key"]}
    token, second = await signed_in(deployment, "first"), await signed_in(deployment, "other")
    assert (await me(deployment, token)).status_code == 200
    await deployment.changed("DELETE", f"/admin/v1/keys/{key['details']['id']}")
    assert (await me(deployment, token)).status_code == 401
    assert (await me(deployment, second)).status_code == 200
    await deployment.changed("PATCH", f"/admin/v1/users/{user['id']}", {"active": False})
    assert (await me(deployment, second)).status_code == 401


async def test_signing_out_ends_every_token_and_no_key(deployment: Any) -> None:
    user = await deployment.made("/admin/v1/users", {"name": "leaving-user"})
    key = await deployment.made("/admin/v1/keys", {"principal_id": user["id"]})
    deployment.keys["leaving"] = key["key"]
    tokens = [await signed_in(deployment, "leaving") for _ in range(3)]
    for token in tokens:
        assert (await me(deployment, token)).status_code == 200
    gone = await deployment.client.delete(
        "/admin/v1/sessions", headers={"authorization": f"Bearer {tokens[0]}"}
    )
    assert gone.status_code == 204
    for token in tokens:
        assert (await me(deployment, token)).status_code == 401
    assert (await deployment.ask("GET", "/admin/v1/me", "leaving")).status_code == 200


async def test_a_key_for_one_plane_gives_a_token_for_no_more(deployment: Any) -> None:
    user = await deployment.made("/admin/v1/users", {"name": "narrow-user"})
    key = await deployment.made("/admin/v1/keys", {"principal_id": user["id"], "planes": ["data"]})
    deployment.keys["narrow"] = key["key"]
    assert (await deployment.ask("POST", "/admin/v1/sessions", "narrow")).status_code == 403


async def test_a_login_is_an_entry_of_the_audit(deployment: Any) -> None:
    await signed_in(deployment, "demo")
    (entry,) = (await deployment.ask("GET", "/admin/v1/audit?object_kind=session&limit=1")).json()["items"]
    assert (entry["action"], entry["actor"].partition(" ")[0]) == ("session.sign_in", "demo")
    assert entry["after"].keys() == {"key_id", "until"}
