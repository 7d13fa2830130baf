"""No value in any field of any control-plane body makes the gateway fail: it is taken, or refused in words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from litestar.routes import HTTPRoute

UNKNOWN = "00000000-0000-7000-8000-000000000000"
NASTY: list[Any] = [
    None, True, -1, 0, 2**63 - 1, 2**63, 1e300, "", "\u0000", "\x7f", "x" * 5000, "%_%_%_" * 600, "'; DROP TABLE principals; --",
    "\u202e", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2027-01-01", [], ["admin"], [None], {}, {"a": "b"},
    {"\u0000": "b"}, {"k" * 500: "v"}, UNKNOWN, UNKNOWN.upper(), "rolling:60000", "calendar:month:../../etc/passwd", "http://[::1",
]  # fmt: skip
PLAUSIBLE: dict[str, Any] = {
    "principal_id": UNKNOWN, "served_entity_id": UNKNOWN, "member_id": UNKNOWN, "grantee_id": UNKNOWN, "member_kind": "user",
    "grantee_kind": "user", "level": "CAN_VIEW", "scope": "user_default", "metric": "requests", "window": "rolling:60000",
    "amount": 1, "served_entities": [{"name": "m", "kind": "local", "provider": "vllm", "model": "m"}],
    "issuer": "https://login.example.com", "audience": "a", "permission_level": "CAN_VIEW", "input": 1, "cache_read": 1, "cache_write": 1, "output": 1, "reasoning": 1,
}  # fmt: skip


async def real(deployment: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """Ids of what there is, for paths and for bodies, so that refusals come from as deep as they can."""
    user = (await deployment.made("/admin/v1/users", {"name": "fuzzed"}))["id"]
    machine = (await deployment.made("/admin/v1/service-principals", {"name": "fuzzed machine"}))["id"]
    group = (await deployment.made("/admin/v1/groups", {"name": "fuzzed"}))["id"]
    entity = PLAUSIBLE["served_entities"]
    endpoint = await deployment.made("/admin/v1/endpoints", {"name": "fuzzed", "served_entities": entity})
    limit = {"scope": "user", "subject_id": user, "metric": "requests", "window": "rolling:1000", "amount": 1}
    paths = {
        "/admin/v1/users": user,
        "/admin/v1/service-principals": machine,
        "/admin/v1/groups": group,
        "/admin/v1/endpoints": endpoint["id"],
        "/admin/v1/limits": (await deployment.made("/admin/v1/limits", limit))["id"],
        "/api/2.0/permissions": endpoint["id"],
    }
    issuer = {"name": "fuzzed", "issuer": "https://fuzzed.example.com", "audience": "a", "family": "HS"}
    shared = "0123456789abcdefghijklmnopqrstuvwxyz"
    paths["/admin/v1/issuers"] = (await deployment.made("/admin/v1/issuers", {**issuer, "secret": shared}))[
        "id"
    ]
    served = endpoint["served_entities"][0]["id"]
    return paths, {"principal_id": user, "member_id": user, "grantee_id": user, "served_entity_id": served}


def bodies(shape: type[msgspec.Struct], number: list[int], known: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    fields = msgspec.structs.fields(shape)
    for each in fields:
        for value in NASTY:
            number[0] += 1
            body = {
                other.name: {**PLAUSIBLE, **known}.get(other.name, f"fuzz-{number[0]}")
                for other in fields
                if other.required
            }
            found.append({**body, each.name: value})
    return found


async def test_every_field_of_every_body_takes_or_refuses_every_value(deployment: Any) -> None:
    paths, known = await real(deployment)
    number = [0]
    refused = taken = 0
    for route in deployment.app.routes:
        if not isinstance(route, HTTPRoute) or not route.path.startswith(("/admin", "/api/2.0")):
            continue
        own = next((each for prefix, each in paths.items() if route.path.startswith(prefix)), UNKNOWN)
        path = "/" + "/".join(part if isinstance(part, str) else own for part in route.path_components)
        for handler in route.route_handlers:
            shape = handler.parsed_fn_signature.parameters.get("data")
            if shape is None:
                continue
            for method in handler.http_methods:
                for body in bodies(shape.annotation, number, known):
                    answer = await deployment.ask(method, path, json=body, if_match="*")
                    assert answer.status_code < 500, f"{method} {path} {body}: {answer.text}"
                    assert answer.status_code < 400 or answer.json()
                    refused += answer.status_code >= 400
                    taken += answer.status_code < 400
    assert await deployment.catalog.refresh(), "what was taken can be decided with"
    assert refused > 500
    assert taken > 100


@pytest.mark.parametrize("path", ["users", "groups", "endpoints", "audit", "keys", "limits", "prices"])
async def test_every_query_takes_or_refuses_every_value(deployment: Any, path: str) -> None:
    names = (
        "name",
        "after",
        "limit",
        "before",
        "object_id",
        "object_kind",
        "scope",
        "subject_id",
        "principal_id",
        "unknown",
    )
    for name in names:
        for value in ("%00", "x", "-1", "0", "9" * 30, "%25_" * 1000, "%F0%9F%92%A9", "%ff", UNKNOWN):
            answer = await deployment.ask("GET", f"/admin/v1/{path}?{name}={value}")
            assert answer.status_code < 500, f"{path}?{name}={value[:20]}: {answer.text}"
