"""GET /v1/models and /v1/models/{id}: exactly the endpoints that the caller may query.

The OpenAI and Anthropic SDKs share the path, so each entry has the fields of both.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from litestar import Router, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from gateway.errors import Forbidden, NotFound
from gateway.http.admin.access import Admin
from policies.administration import Permission
from policies.catalog import Endpoint
from policies.decision import Deny
from policies.permissions import Level, may

MODELS = {"permission": Permission.MODELS_READ}


@get("/models", opt=MODELS, tags=["Models"], summary="List the models you may query")
async def list_models(admin: NamedDependency[Admin]) -> dict[str, Any]:
    """In order of name."""
    snapshot, caller = admin.snapshot, admin.caller
    names = sorted(snapshot.endpoints)
    data = [
        _entry(each)
        for name in names
        if may(snapshot, caller, Level.CAN_QUERY, each := snapshot.endpoints[name])
    ]
    return {
        "object": "list",
        "data": data,
        "has_more": False,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


@get("/models/{model:path}", opt=MODELS, tags=["Models"], summary="Read one model")
async def get_model(admin: NamedDependency[Admin], model: FromPath[str]) -> dict[str, Any]:
    """404 for an unknown name, 403 for an endpoint that the caller may not query."""
    name = unquote(model.removeprefix("/"))
    endpoint = admin.snapshot.endpoints.get(name)
    if endpoint is None:
        raise NotFound(f"There is no endpoint {name[:128]!r}.", code="model_not_found", param="model")
    match may(admin.snapshot, admin.caller, Level.CAN_QUERY, endpoint):
        case Deny(code=code, reason=reason):
            raise Forbidden(reason, code=code)
        case _:
            return _entry(endpoint)


def model_routes(router: Router) -> Router:
    """The two routes, on a router that brings guard and dependencies."""
    router.register(list_models)
    router.register(get_model)
    return router


def _entry(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "id": endpoint.name,
        "object": "model",
        "created": endpoint.created_at_ms // 1000,
        "owned_by": endpoint.creator or "weighbridge",
        "type": "model",
        "display_name": endpoint.name,
        "created_at": datetime.fromtimestamp(endpoint.created_at_ms / 1000, UTC).strftime(
            "%Y-%m-%dT%H:%M:%SZ"
        ),
    }
