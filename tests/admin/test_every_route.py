"""Every route of the gateway has decided who may use it: found by walking the application's own route table."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from litestar.handlers import HTTPRouteHandler
from litestar.routes import ASGIRoute, HTTPRoute

from policies.administration import OF_EVERYONE, Permission
from policies.principal import Role

PUBLIC = {
    "/healthz",
    "/readyz",
    "/metrics",
    "/.well-known/databricks-config",
    "/",
    "/console",
    "/playground",
}
PUBLIC_BELOW = ("/openapi", "/console/")
UNKNOWN = str(UUID(int=7 << 76 | 2 << 62))


def _filled(route: HTTPRoute | ASGIRoute) -> str:
    return "/" + "/".join(
        part if isinstance(part, str) else (UNKNOWN if part.type is UUID else "x")
        for part in route.path_components
    )


def _is_public(path: str) -> bool:
    return path.rstrip("/") in {each.rstrip("/") for each in PUBLIC} or path.startswith(PUBLIC_BELOW)


def _guarded(app: Any) -> list[tuple[str, str, HTTPRouteHandler]]:
    return [
        (method, _filled(route), handler)
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        for method in sorted(handler.http_methods - {"OPTIONS", "HEAD"})
        if not _is_public(route.path)
    ]


async def test_no_route_answers_without_a_credential(deployment: Any) -> None:
    asked = 0
    for route in deployment.app.routes:
        if _is_public(route.path):
            continue
        methods = sorted(route.methods - {"OPTIONS", "HEAD"}) if isinstance(route, HTTPRoute) else ["POST"]
        for method in methods:
            path = _filled(route)
            if isinstance(route, ASGIRoute) and route.route_handler.is_mount:
                path += "/v1/embeddings" if path.startswith("/openai") else "/x/invocations"
            answer = await deployment.ask(
                method, path, None, json={} if method in ("POST", "PUT", "PATCH") else None
            )
            assert answer.status_code == 401, f"{method} {path} answered {answer.status_code} to nobody"
            assert answer.headers["x-request-id"]
            asked += 1
    assert asked > 40


async def test_every_guarded_route_names_a_permission_and_holds_to_it(deployment: Any) -> None:
    for method, path, handler in _guarded(deployment.app):
        permission = handler.opt.get("permission")
        assert isinstance(permission, Permission), f"{method} {path} has no permission"
        for who, role in (("demo", None), ("auditor", Role.AUDITOR)):
            body = {} if method in ("POST", "PUT", "PATCH") else None
            answer = await deployment.ask(method, path, who, json=body)
            allowed = permission in OF_EVERYONE or (role is not None and permission.endswith(":read"))
            if allowed:
                assert answer.status_code != 401, f"{method} {path} answered 401 to {who}"
                assert permission in OF_EVERYONE or answer.status_code != 403, (
                    f"{method} {path} refused {who}"
                )
            else:
                assert answer.status_code == 403, f"{method} {path} answered {answer.status_code} to {who}"
                refusal = answer.json()
                assert permission.value in refusal.get("message", "") + str(refusal.get("error")), (
                    "names what is missing"
                )


async def test_an_administrator_reaches_every_guarded_route(deployment: Any) -> None:
    for method, path, _ in _guarded(deployment.app):
        answer = await deployment.ask(
            method, path, "admin", json={} if method in ("POST", "PUT", "PATCH") else None
        )
        assert answer.status_code not in (401, 403), (
            f"{method} {path} answered {answer.status_code}: {answer.text}"
        )
        assert answer.status_code < 500, f"{method} {path} failed: {answer.text}"
        if not path.startswith("/v1/"):
            assert answer.headers["x-request-id"], f"{method} {path} has no request id"


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer {}"},
        {"x-api-key": "{}"},
        {"api-key": "{}"},
        {"authorization": "Bearer {}", "x-api-key": "{}"},
    ],
)
async def test_every_way_to_send_one_credential_is_taken(deployment: Any, headers: dict[str, str]) -> None:
    sent = {name: value.format(deployment.keys["demo"]) for name, value in headers.items()}
    answer = await deployment.client.get("/admin/v1/me", headers=sent)
    assert answer.json()["name"] == "demo"


async def test_two_different_credentials_are_refused(deployment: Any) -> None:
    sent = {"authorization": f"Bearer {deployment.keys['demo']}", "x-api-key": deployment.keys["admin"]}
    answer = await deployment.client.get("/admin/v1/me", headers=sent)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "ambiguous_credentials"


async def test_the_api_describes_itself_with_every_admin_route(deployment: Any) -> None:
    described = (await deployment.client.get("/openapi/openapi.json")).json()
    paths = described["paths"]
    for path in (
        "/admin/v1/users",
        "/admin/v1/keys",
        "/admin/v1/limits",
        "/admin/v1/audit",
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/embeddings",
        "/serving-endpoints/embeddings",
    ):
        assert path in paths
    for path in ("/admin/v1/groups", "/admin/v1/me/keys", "/admin/v1/keys/{key_id}/rotate"):
        headers = {each["name"] for each in paths[path]["post"].get("parameters", ())}
        assert "Idempotency-Key" in headers, path
    operations = [each for path in paths.values() for each in path.values()]
    assert all(operation.get("summary") for operation in operations)
