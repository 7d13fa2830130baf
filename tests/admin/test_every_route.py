"""Every route of the gateway has decided who may use it: found by walking the application's own route table."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute

from gateway.http.entrance import CALLS
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
CALLS_BY_NAME = (
    "/serving-endpoints/x/invocations",
    "/endpoints/x/invocations",
    "/openai/deployments/x/chat/completions",
    "/openai/v1/embeddings",
)
UNKNOWN = str(UUID(int=7 << 76 | 2 << 62))


def _filled(route: HTTPRoute) -> str:
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
    asked = [
        (method, _filled(route))
        for route in deployment.app.routes
        if not _is_public(route.path)
        for method in sorted(route.methods - {"OPTIONS", "HEAD"})
    ]
    assert len(asked) > 40
    for method, path in [*asked, *(("POST", path) for path in (*CALLS, *CALLS_BY_NAME))]:
        body = {} if method in ("POST", "PUT", "PATCH") else None
        answer = await deployment.ask(method, path, None, json=body)
        assert answer.status_code == 401, f"{method} {path} answered {answer.status_code} to nobody"
        assert answer.headers["x-request-id"]


@pytest.mark.parametrize("path", [*CALLS, "/v1//embeddings/", *CALLS_BY_NAME])
async def test_a_path_that_reaches_a_model_takes_post_alone(deployment: Any, path: str) -> None:
    answer = await deployment.ask("PUT", path, json={})
    assert answer.status_code in (400, 405)
    assert "POST" in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/v1/nothing",
        "/openai",
        "/openai/deployments/x/nothing",
        "/serving-endpoints/x/nothing",
        "/endpoints/x",
    ],
)
async def test_a_path_to_nothing_says_so_in_its_own_dialect(deployment: Any, path: str) -> None:
    answer = await deployment.ask("POST", path, json={})
    assert (answer.status_code, "There is nothing at" in answer.text) == (404, True)
    assert ("error_code" in answer.json()) == (not path.startswith(("/v1", "/openai")))
    assert answer.headers["x-request-id"]


async def test_operators_pages_are_for_everybody(deployment: Any) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/.well-known/databricks-config"):
        answer = await deployment.ask("GET", path, None)
        assert (answer.status_code, bool(answer.headers["x-request-id"])) == (200, True)
    assert answer.json()["oidc_endpoint"] == "http://gateway/oidc"


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


async def test_whatever_is_handled_without_the_framework_is_described_as_a_call_to_a_model(
    deployment: Any,
) -> None:
    """tests/clients/test_admission.py sends to all that is described so, and none may get past the admission."""
    paths = (await deployment.client.get("/openapi/openapi.json")).json()["paths"]
    calls = {
        path for path, item in paths.items() if "Calls to models" in item.get("post", {}).get("tags", ())
    }
    for path, api in CALLS.items():
        # Another path of the same call is the same call.
        assert path in calls or any(CALLS.get(each) is api for each in calls), f"{path} is not described"
    for below in ("/openai/deployments/", "/serving-endpoints/"):
        assert any(each.startswith(f"{below}{{name}}") for each in calls), f"{below} is not described"


def test_nothing_but_what_stands_behind_the_admission_takes_a_model_s_adapter() -> None:
    """Routes of the framework are no calls to models: none of them may come by what calls one."""
    gateway = Path(__file__).parents[2] / "gateway"
    taking = {
        path.relative_to(gateway).as_posix()
        for path in gateway.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "adapter"
    }
    assert taking == {"pipeline/tries.py", "pipeline/counting.py", "engine_watch.py"}
