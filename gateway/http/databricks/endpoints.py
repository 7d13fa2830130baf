"""Endpoints as Databricks' and MLflow's clients list and read them: only those that the caller may view.

With and without a trailing slash, never a redirect. Whoever changed something reads it back, whichever worker answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from litestar import get
from litestar.di import NamedDependency
from litestar.params import FromPath

from gateway.errors import Forbidden, NotFound
from gateway.http.admin.access import Admin
from gateway.http.databricks.ai_gateway import ai_gateway
from gateway.http.databricks.external_models import shown as external_model
from policies.administration import Permission
from policies.catalog import Endpoint, EntityKind, ServedEntity
from policies.decision import Deny
from policies.permissions import Level, granted, may

READ = {"permission": Permission.SERVING_READ}
Ready = Callable[[Endpoint], bool]
CatchUp = Callable[[], Awaitable[object]]
"""Makes this worker's configuration the newest."""


@get("/serving-endpoints", opt=READ, tags=["Databricks"], summary="List endpoints (Databricks)")
async def list_serving_endpoints(
    admin: NamedDependency[Admin], ready: NamedDependency[Ready], catch_up: NamedDependency[CatchUp]
) -> dict[str, Any]:
    """Those that the caller may view, in order of name."""
    await catch_up()
    return {"endpoints": [serving_endpoint(admin, ready, each, detailed=False) for each in _viewable(admin)]}


@get("/serving-endpoints/{name:str}", opt=READ, tags=["Databricks"], summary="Read an endpoint (Databricks)")
async def get_serving_endpoint(
    admin: NamedDependency[Admin],
    ready: NamedDependency[Ready],
    catch_up: NamedDependency[CatchUp],
    name: FromPath[str],
) -> dict[str, Any]:
    """The endpoint in Databricks' shape."""
    await catch_up()
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


def serving_endpoint(admin: Admin, ready: Ready, endpoint: Endpoint, *, detailed: bool) -> dict[str, Any]:
    """An endpoint in Databricks' shape, as the caller may see it."""
    held, _ = granted(admin.snapshot, admin.caller, endpoint)
    manages = held is Level.CAN_MANAGE
    # The order in which a client lists them is the order of the fallbacks.
    order = {name: place for place, name in enumerate(endpoint.order)}
    entities = sorted(endpoint.entities, key=lambda each: order.get(each.name, len(order)))
    external = any(each.kind is not EntityKind.LOCAL for each in entities)
    shown: dict[str, Any] = {
        "name": endpoint.name,
        "id": endpoint.id,
        "creator": endpoint.creator,
        "creation_timestamp": endpoint.created_at_ms,
        "last_updated_timestamp": endpoint.updated_at_ms,
        "state": {"ready": "READY" if ready(endpoint) else "NOT_READY", "config_update": "NOT_UPDATING"},
        "config": {"served_entities": [_served_entity(endpoint, each, manages=manages) for each in entities]},
        "tags": [{"key": key, "value": value} for key, value in endpoint.tags],
        "task": endpoint.task,
        "description": endpoint.description,
        "endpoint_type": "EXTERNAL_MODEL" if external else "FOUNDATION_MODEL_API",
        "permission_level": (held or Level.CAN_VIEW).name,
        "route_optimized": False,
    }
    if detailed:
        shown["config"] |= {
            "config_version": endpoint.config_version,
            "traffic_config": {
                "routes": [
                    {"served_model_name": name, "served_entity_name": name, "traffic_percentage": percent}
                    for name, percent in endpoint.split
                ]
            },
        }
        if manages:
            # Limits name others: they are shown to those who may set them.
            shown["ai_gateway"] = ai_gateway(admin.snapshot, endpoint)
    return shown


def _served_entity(endpoint: Endpoint, entity: ServedEntity, *, manages: bool) -> dict[str, Any]:
    shown: dict[str, Any] = {
        **entity.shown,
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
    model = external_model(entity, endpoint.task)
    if not manages:
        model = {name: value for name, value in model.items() if not name.endswith("_config")}
    return {**shown, "external_model": model}


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
