"""What the control plane refuses leaves a trail, and guesses of keys are slowed down, without a hint of which are right."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.app import Front, create_app
from gateway.http.admin.access import ControlPlane
from gateway.http.entrance import Entrance
from gateway.http.operations import Operations
from gateway.http.plane import DataPlane
from gateway.security.guesses import AT_ONCE, Guesses
from gateway.security.keys import mint
from tests.admin.conftest import Deployment, _no_line


class Noted:
    """A trail that remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[Any, ...]] = []

    def refused(
        self, principal_id: str | None, asked: str | None, code: str, *, limit_id: str | None = None,
        address: str | None = None, plane: str = "data",
    ) -> None:  # fmt: skip
        self.lines.append((principal_id, asked, code, plane, address))


def watched(deployment: Deployment) -> Noted:
    """The same front with a trail."""
    noted = Noted()
    known: ControlPlane = deployment.control
    control = ControlPlane(
        known.keys, known.catalog, known.configuration, known.peppers, known.sealing, known.sessions, trail=noted
    )  # fmt: skip
    plane = DataPlane(_no_line())
    app = create_app(Front(plane, control, lambda _: True))
    deployment.entrance = Entrance(plane, Operations(list, lambda: b""), lambda: app)
    return noted


async def test_a_refused_change_of_oneself_is_noted_with_who_and_what(deployment: Deployment) -> None:
    noted = watched(deployment)
    me = (await deployment.ask("GET", "/admin/v1/me", "demo")).json()["id"]
    path = f"/admin/v1/users/{me}"
    tried = [
        ("PATCH", path, {"roles": ["admin"]}),
        ("PATCH", path, {"allowed_routes": ["*"]}),
        ("POST", "/admin/v1/budgets", {"scope": "user", "subject_id": me, "period": "day", "usd": "1000"}),
        ("POST", "/admin/v1/grants:bulk", {"grants": [{"endpoint_id": me, "grantee_kind": "user", "grantee_id": me, "level": "CAN_MANAGE"}]}),
        ("DELETE", path, None),
    ]  # fmt: skip
    for method, at, body in tried:
        answer = await deployment.ask(method, at, "demo", json=body, if_match="*")
        assert answer.status_code in (403, 404), answer.text
    assert (me, f"PATCH {path}", "permission_denied", "control", "127.0.0.1") in noted.lines
    assert (me, "POST /admin/v1/budgets", "permission_denied", "control", "127.0.0.1") in noted.lines
    assert (me, f"DELETE {path}", "permission_denied", "control", "127.0.0.1") in noted.lines
    deployment.keys["nobody"] = "gk_live_nothing"
    await deployment.ask("GET", "/admin/v1/me", "nobody")
    assert noted.lines[-1] == (None, "GET /admin/v1/me", "invalid_api_key", "control", "127.0.0.1")


async def test_guesses_are_told_to_wait_and_keys_in_use_go_on(deployment: Deployment) -> None:
    # Nothing is forgiven while the test runs, however slowly.
    deployment.control.keys._guesses = Guesses(lambda: 0.0)  # type: ignore[attr-defined]
    assert (await deployment.ask("GET", "/admin/v1/me", "demo")).status_code == 200
    fresh = (
        await deployment.ask("POST", "/admin/v1/me/keys", "demo", json={"planes": ["control", "data"]})
    ).json()
    for _ in range(AT_ONCE):
        deployment.keys["guess"] = mint(deployment.peppers).text
        assert (await deployment.ask("GET", "/v1/models", "guess")).status_code == 401
    deployment.keys |= {"guess": mint(deployment.peppers).text, "right": fresh["key"]}
    answers = [await deployment.ask("GET", "/v1/models", who) for who in ("guess", "right")]
    for answer in answers:
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert answer.json()["error"]["code"] == "too_many_failed_credentials"
    assert (await deployment.ask("GET", "/api/2.0/serving-endpoints", "guess")).status_code == 429
    assert (await deployment.ask("GET", "/admin/v1/me", "demo")).status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/admin/v1/me"])
async def test_a_request_without_a_credential_is_no_guess(deployment: Deployment, path: str) -> None:
    for _ in range(AT_ONCE + 5):
        assert (await deployment.ask("GET", path, None)).status_code == 401
