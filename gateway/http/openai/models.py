"""GET /v1/models and /v1/models/{id}, and the same below Azure's and Databricks' paths: exactly the endpoints that the caller may query.

The OpenAI and Anthropic SDKs share the path: each entry has the fields of both, and Anthropic's alone where the caller
sends `anthropic-version`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import unquote

from litestar import Router, get
from litestar.di import NamedDependency
from litestar.params import FromPath, HeaderParameter

from gateway.errors import Forbidden, NotFound
from gateway.http.admin.access import Admin
from policies.administration import Permission
from policies.catalog import Endpoint
from policies.decision import Deny
from policies.permissions import Level, may

MODELS = {"permission": Permission.MODELS_READ}
_BASES = (
    "/v1", "/openai/v1", "/openai", "/serving-endpoints",
    "/ai-gateway/mlflow/v1", "/ai-gateway/openai/v1", "/ai-gateway/anthropic/v1",
)  # fmt: skip
Version = Annotated[
    str | None,
    HeaderParameter(name="anthropic-version", description="Asks for Anthropic's shape; any version."),
]


@get(
    [f"{base}/models" for base in _BASES],
    opt=MODELS,
    tags=["Models"],
    summary="List the models you may query",
)
async def list_models(admin: NamedDependency[Admin], version: Version = None) -> dict[str, Any]:
    """In order of name, all at once."""
    snapshot, caller = admin.snapshot, admin.caller
    names = sorted(snapshot.endpoints)
    data = [
        _entry(each, version)
        for name in names
        if may(snapshot, caller, Level.CAN_QUERY, each := snapshot.endpoints[name])
    ]
    page: dict[str, Any] = {
        "data": data,
        "has_more": False,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }
    return page if version is not None else {"object": "list", **page}


@get(
    [f"{base}/models/{{model:path}}" for base in _BASES],
    opt=MODELS,
    tags=["Models"],
    summary="Read one model",
)
async def get_model(
    admin: NamedDependency[Admin], model: FromPath[str], version: Version = None
) -> dict[str, Any]:
    """404 for an unknown name, 403 for an endpoint that the caller may not query."""
    name = unquote(model.removeprefix("/"))
    endpoint = admin.snapshot.endpoints.get(name)
    if endpoint is None:
        raise NotFound(f"There is no endpoint {name[:128]!r}.", code="model_not_found", param="model")
    match may(admin.snapshot, admin.caller, Level.CAN_QUERY, endpoint):
        case Deny(code=code, reason=reason):
            raise Forbidden(reason, code=code)
        case _:
            return _entry(endpoint, version)


def model_routes(router: Router) -> Router:
    """The two routes, on a router that brings guard and dependencies."""
    router.register(list_models)
    router.register(get_model)
    return router


def _entry(endpoint: Endpoint, version: str | None) -> dict[str, Any]:
    made = datetime.fromtimestamp(endpoint.created_at_ms / 1000, UTC)
    entry = {
        "id": endpoint.name,
        "type": "model",
        "display_name": endpoint.name,
        "created_at": made.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if version is not None:
        return entry
    return {
        **entry,
        "object": "model",
        "created": endpoint.created_at_ms // 1000,
        "owned_by": endpoint.creator or "weighbridge",
    }
