"""Endpoints as Databricks' and MLflow's clients list and read them: only those that the caller may view.

Reading is all of it; endpoints are made on /admin/v1. With and without a trailing slash, never a redirect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from litestar import Router, get
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath

from gateway.errors import Forbidden, NotFound
from gateway.http.admin.access import Admin, ControlPlane, Guard, provide_admin, request_ids, strict_body
from gateway.http.databricks.permissions import PERMISSION_ROUTES
from policies.administration import Permission
from policies.catalog import Endpoint, EntityKind, ServedEntity
from policies.decision import Deny
from policies.permissions import Level, granted, may

READ = {"permission": Permission.SERVING_READ}
Ready = Callable[[Endpoint], bool]
_PROVIDERS = frozenset(
    {
        "ai21labs",
        "amazon-bedrock",
        "anthropic",
        "cohere",
        "databricks-model-serving",
        "google-cloud-vertex-ai",
        "openai",
        "palm",
    }
)


@get("/serving-endpoints", opt=READ, tags=["Databricks"], summary="List endpoints (Databricks)")
async def list_serving_endpoints(
    admin: NamedDependency[Admin], ready: NamedDependency[Ready]
) -> dict[str, Any]:
    """Those that the caller may view, in order of name."""
    return {"endpoints": [serving_endpoint(admin, ready, each, detailed=False) for each in _viewable(admin)]}


@get("/serving-endpoints/{name:str}", opt=READ, tags=["Databricks"], summary="Read an endpoint (Databricks)")
async def get_serving_endpoint(
    admin: NamedDependency[Admin], ready: NamedDependency[Ready], name: FromPath[str]
) -> dict[str, Any]:
    """The endpoint in Databricks' shape."""
    return serving_endpoint(admin, ready, _view(admin, name), detailed=True)


@get("/endpoints", opt=READ, tags=["Databricks"], summary="List endpoints (MLflow's gateway client)")
async def list_gateway_endpoints(admin: NamedDependency[Admin]) -> dict[str, Any]:
    """Those that the caller may view, in order of name."""
    return {"endpoints": [_gateway_endpoint(each) for each in _viewable(admin)]}


@get(
    "/endpoints/{name:str}",
    opt=READ,
    tags=["Databricks"],
    summary="Read an endpoint (MLflow's gateway client)",
)
async def get_gateway_endpoint(admin: NamedDependency[Admin], name: FromPath[str]) -> dict[str, Any]:
    """The endpoint in the shape of MLflow's gateway."""
    return _gateway_endpoint(_view(admin, name))


@get(
    "/preview/scim/v2/Me",
    opt={"permission": Permission.SELF_READ},
    tags=["Databricks"],
    summary="Who am I (SCIM)",
)
async def scim_me(admin: NamedDependency[Admin]) -> dict[str, Any]:
    """The caller's principal in SCIM's shape."""
    who, snapshot = admin.caller.principal, admin.snapshot
    return {
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
        "id": who.id,
        "userName": who.name,
        "displayName": who.name,
        "active": who.active,
        "emails": [{"type": "work", "value": who.name, "primary": True}] if "@" in who.name else [],
        "groups": [
            {"display": snapshot.groups[each].name, "value": each, "type": "direct"}
            for each in who.groups
            if each in snapshot.groups
        ],
    }


def databricks_routes(control: ControlPlane, ready: Ready = lambda _: True) -> list[Router]:
    """The control-plane routes under /api/2.0; `ready` says whether an endpoint could answer now."""
    return [
        Router(
            "/api/2.0",
            guards=[Guard(control)],
            before_request=strict_body,
            after_request=request_ids(control),
            dependencies={
                "admin": Provide(provide_admin(control)),
                "ready": Provide(lambda: ready, sync_to_thread=False),
            },
            route_handlers=[
                list_serving_endpoints,
                get_serving_endpoint,
                list_gateway_endpoints,
                get_gateway_endpoint,
                scim_me,
                *PERMISSION_ROUTES,
            ],
        )
    ]


def serving_endpoint(
    admin: NamedDependency[Admin], ready: NamedDependency[Ready], endpoint: Endpoint, *, detailed: bool
) -> dict[str, Any]:
    """An endpoint in Databricks' shape, as the caller may see it."""
    held, _ = granted(admin.snapshot, admin.caller, endpoint)
    shown: dict[str, Any] = {
        "name": endpoint.name,
        "id": endpoint.id,
        "creator": endpoint.creator,
        "creation_timestamp": endpoint.created_at_ms,
        "last_updated_timestamp": endpoint.updated_at_ms,
        "state": {"ready": "READY" if ready(endpoint) else "NOT_READY", "config_update": "NOT_UPDATING"},
        "config": {
            "served_entities": [_served_entity(endpoint, each) for each in endpoint.entities],
            "traffic_config": {
                "routes": [
                    {"served_model_name": name, "served_entity_name": name, "traffic_percentage": percent}
                    for name, percent in endpoint.split
                ]
            },
        },
        "tags": [{"key": key, "value": value} for key, value in endpoint.tags],
        "task": endpoint.task,
        "description": endpoint.description,
        "permission_level": (held or Level.CAN_VIEW).name,
        "route_optimized": False,
    }
    if not detailed:
        del shown["config"]["traffic_config"]
    return shown


def _served_entity(endpoint: Endpoint, entity: ServedEntity) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "name": entity.name,
        "creator": endpoint.creator,
        "creation_timestamp": endpoint.created_at_ms,
        "state": {"deployment": "DEPLOYMENT_READY", "deployment_state_message": ""},
    }
    if entity.kind is EntityKind.LOCAL:
        return {
            **shown,
            "entity_name": entity.model,
            "foundation_model": {"name": entity.model, "display_name": entity.model},
        }
    provider = entity.provider if entity.provider in _PROVIDERS else "custom"
    return {**shown, "external_model": {"name": entity.model, "provider": provider, "task": endpoint.task}}


def _gateway_endpoint(endpoint: Endpoint) -> dict[str, Any]:
    first = endpoint.entities[0] if endpoint.entities else None
    return {
        "name": endpoint.name,
        "endpoint_type": endpoint.task,
        "model": {
            "name": endpoint.name if first is None else first.model,
            "provider": "" if first is None else first.provider,
        },
        "endpoint_url": f"/serving-endpoints/{endpoint.name}/invocations",
        # MLflow's client fails on an endpoint without the key; null is no limit that it would know how to show.
        "limit": None,
    }


def _viewable(admin: NamedDependency[Admin]) -> Iterator[Endpoint]:
    by_id = {endpoint.id: endpoint for endpoint in admin.snapshot.endpoints.values()}
    for endpoint in sorted(by_id.values(), key=lambda each: each.name):
        if may(admin.snapshot, admin.caller, Level.CAN_VIEW, endpoint):
            yield endpoint


def _view(admin: NamedDependency[Admin], name: FromPath[str]) -> Endpoint:
    endpoint = admin.snapshot.endpoints.get(name)
    if endpoint is None:
        raise NotFound(f"There is no endpoint {name!r}.")
    match may(admin.snapshot, admin.caller, Level.CAN_VIEW, endpoint):
        case Deny(code=code, reason=reason):
            raise Forbidden(reason, code=code)
        case _:
            return endpoint
