"""Endpoints made, changed and deleted through Databricks' routes, by administrators and by those who manage them.

One change of the configuration each, seen by every worker within a second. Credentials go in and never come out: each
external model's is kept as a provider of the deployment, named after endpoint and entity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from litestar import delete, patch, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct
from sqlalchemy import func, select

from gateway.errors import BadRequest, Conflict, Forbidden
from gateway.http.admin.access import Admin
from gateway.http.admin.endpoint_shapes import EndpointName
from gateway.http.databricks.ai_gateway import AiGateway, with_features
from gateway.http.databricks.endpoints import Ready, serving_endpoint
from gateway.http.databricks.rate_limits import RateLimit, limits_wanted, managed, plain_limits, set_limits_of
from gateway.http.databricks.serving_config import ServingConfig, Wanted, read_config
from gateway.security.addresses import AddressRefused, read_address
from gateway.store.changes import Change
from gateway.store.endpoints import EntitySpec, create_endpoint, delete_endpoint, grant, update_endpoint
from gateway.store.providers import create_provider, delete_provider, replace_provider
from gateway.store.reading import Row
from gateway.store.tables.catalog import endpoints, served_entities
from gateway.store.tables.providers import providers
from policies.administration import Permission, may_administer

MANAGE = {"permission": Permission.SERVING_MANAGE}
TagText = Annotated[str, Meta(max_length=256, pattern=r"^[^\x00]*$")]
TagKey = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00]*$")]
_MOST_TAGS = 50
PROVIDER_HOSTS = "WEIGHBRIDGE_PROVIDER_HOSTS"


class AlreadyExists(Conflict):
    """There is an endpoint of that name."""

    code = "already_exists"
    databricks_status, databricks_code = 400, "RESOURCE_ALREADY_EXISTS"


class Tag(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key with a value."""

    key: TagKey
    value: TagText = ""


class NewServingEndpoint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An endpoint to create."""

    name: EndpointName
    config: ServingConfig
    ai_gateway: AiGateway | None = None
    description: Annotated[str, Meta(max_length=2000, pattern=r"^[^\x00]*$")] = ""
    rate_limits: Annotated[list[RateLimit], Meta(max_length=20)] | None = None
    route_optimized: bool = False
    tags: Annotated[list[Tag], Meta(max_length=_MOST_TAGS)] = []


class TagsChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tags to add or set, and keys to delete."""

    add_tags: Annotated[list[Tag], Meta(max_length=_MOST_TAGS)] = []
    delete_tags: Annotated[list[TagKey], Meta(max_length=_MOST_TAGS)] = []


@post(
    "/serving-endpoints",
    opt={"permission": Permission.ENDPOINTS_WRITE},
    status_code=200,
    tags=["Databricks"],
    summary="Create an endpoint (Databricks, MLflow)",
)
async def create_serving_endpoint(
    admin: NamedDependency[Admin], ready: NamedDependency[Ready], data: JSONBody[NewServingEndpoint]
) -> dict[str, Any]:
    """Whoever creates it manages it; nobody else may use it until it is granted."""
    if data.route_optimized:
        raise BadRequest(
            "Every endpoint takes the shortest route; leave route_optimized out.", param="route_optimized"
        )
    wanted, task = read_config(data.config, data.name)
    features = data.ai_gateway or AiGateway()
    settings = with_features({"rules": {"fallback": False}}, features)
    async with admin.change() as change:
        if await change.rows(endpoints, func.lower(endpoints.c.name) == data.name.lower()):
            raise AlreadyExists(
                f"There is an endpoint {data.name!r} already; choose another name, or update it."
            )
        values = {
            "name": data.name,
            "task": task or "llm/v1/chat",
            "description": data.description,
            "tags": {each.key: each.value for each in data.tags},
            "settings": settings,
        }
        specs = [await _with_credential(admin, change, data.name, each) for each in wanted]
        row = await create_endpoint(change, values, specs)
        if change.actor.id is not None:
            who = admin.caller.principal
            await grant(change, row, who.kind.value, who.id, "CAN_MANAGE")
        rules = await limits_wanted(change, row["id"], features.rate_limits or ())
        rules += plain_limits(row["id"], data.rate_limits or ())
        if rules:
            await set_limits_of(admin, change, row["id"], rules)
    return serving_endpoint(admin, ready, managed(admin, data.name), detailed=True)


@put(
    "/serving-endpoints/{name:str}/config",
    opt=MANAGE,
    tags=["Databricks"],
    summary="Set what answers for an endpoint (Databricks, MLflow)",
)
async def set_serving_config(
    admin: NamedDependency[Admin],
    ready: NamedDependency[Ready],
    name: FromPath[str],
    data: JSONBody[ServingConfig],
) -> dict[str, Any]:
    """The whole configuration. A credential that is not given again stays while provider and address do."""
    endpoint = managed(admin, name)
    wanted, task = read_config(data, endpoint.name)
    async with admin.change() as change:
        before = await change.current(endpoints, endpoint.id, "endpoint")
        there = await change.rows(served_entities, served_entities.c.endpoint_id == endpoint.id)
        specs = [await _with_credential(admin, change, endpoint.name, each) for each in wanted]
        specs = _with_ids(specs, there)
        _require_known_models(admin, specs, there)
        values: dict[str, Any] = {} if task is None else {"task": task}
        if before["settings"].get("rules", {}).get("fallback") is None and all(
            each["fallback_position"] is None for each in there
        ):
            # The list's order is the order of fallbacks, but nobody has asked for any.
            rules = {**before["settings"].get("rules", {}), "fallback": False}
            values["settings"] = {**before["settings"], "rules": rules}
        await update_endpoint(change, before, values, specs)
    return serving_endpoint(admin, ready, managed(admin, endpoint.name), detailed=True)


@patch(
    "/serving-endpoints/{name:str}/tags",
    opt=MANAGE,
    tags=["Databricks"],
    summary="Change an endpoint's tags (Databricks, MLflow)",
)
async def change_tags(
    admin: NamedDependency[Admin], name: FromPath[str], data: JSONBody[TagsChange]
) -> dict[str, Any]:
    """Those that are not named stay."""
    endpoint = managed(admin, name)
    async with admin.change() as change:
        before = await change.current(endpoints, endpoint.id, "endpoint")
        tags = {key: value for key, value in before["tags"].items() if key not in data.delete_tags}
        tags |= {each.key: each.value for each in data.add_tags}
        if len(tags) > _MOST_TAGS:
            raise BadRequest(f"An endpoint takes up to {_MOST_TAGS} tags.", param="add_tags")
        await update_endpoint(change, before, {"tags": tags}, None)
    return {"tags": [{"key": key, "value": tags[key]} for key in sorted(tags)]}


@delete(
    "/serving-endpoints/{name:str}",
    opt=MANAGE,
    status_code=200,
    tags=["Databricks"],
    summary="Delete an endpoint (Databricks, MLflow)",
)
async def delete_serving_endpoint(admin: NamedDependency[Admin], name: FromPath[str]) -> dict[str, Any]:
    """Its grants, limits and credentials end with it; the ledger keeps its name."""
    endpoint = managed(admin, name)
    async with admin.change() as change:
        before = await change.current(endpoints, endpoint.id, "endpoint")
        await delete_endpoint(change, before)
        for row in await _own_providers(change, before):
            used = await change.rows(served_entities, served_entities.c.credential_id == row["id"])
            if not used:
                await delete_provider(change, row)
    # MLflow reads JSON from every answer.
    return {}


CHANGE_ROUTES = (create_serving_endpoint, set_serving_config, change_tags, delete_serving_endpoint)


async def _with_credential(admin: Admin, change: Change, endpoint: str, wanted: Wanted) -> EntitySpec:
    """The entity with whose credential pays for it: the one given, kept as a provider of this name, or the one it has."""
    spec, upstream = wanted.spec, wanted.upstream
    if upstream is None:
        return spec
    try:
        read_address(upstream.base_url, admin.provider_hosts, setting=PROVIDER_HOSTS)
    except AddressRefused as error:
        raise BadRequest(f"Entity {spec.name!r}: {error}.", param="served_entities") from error
    if upstream.credential is None:
        return spec
    values = {"provider": upstream.provider, "base_url": upstream.base_url}
    called = _called(endpoint, spec.name)
    found = await change.rows(providers, func.lower(providers.c.name) == called.lower())
    if not found:
        row = await create_provider(change, admin.sealing, {"name": called, **values}, upstream.credential)
        return replace(spec, credential_id=row["id"])
    row = await replace_provider(change, admin.sealing, found[0], values, upstream.credential)
    return replace(spec, credential_id=row["id"])


def _called(endpoint: str, entity: str) -> str:
    name = f"{endpoint}/{entity}"
    if len(name) > 128:
        raise BadRequest(
            f"Endpoint and entity have names too long together: {name!r}.", param="served_entities"
        )
    return name


async def _own_providers(change: Change, endpoint: Row) -> Sequence[Row]:
    """Those that were made for any entity that the endpoint ever had."""
    table = served_entities.c
    ids = select(table.credential_id).where(
        table.endpoint_id == endpoint["id"], table.credential_id.is_not(None)
    )
    named = func.lower(providers.c.name).startswith(f"{endpoint['name'].lower()}/", autoescape=True)
    return await change.rows(providers, providers.c.id.in_(ids), named)


def _with_ids(specs: Sequence[EntitySpec], there: Sequence[Row]) -> list[EntitySpec]:
    """A model under another name is the same entity: it keeps its id, and so its price."""
    names = {each.name for each in specs}
    left = [row for row in there if row["name"] not in names]
    known = {row["name"] for row in there}
    found: list[EntitySpec] = []
    for spec in specs:
        old = None
        if spec.name not in known:
            old = next(
                (row for row in left if _model(row) == (spec.kind, spec.provider, spec.model, spec.base_url)),
                None,
            )
        if old is not None:
            left.remove(old)
            spec = replace(spec, id=old["id"], credential_id=spec.credential_id or old["credential_id"])
        found.append(spec)
    return found


def _model(row: Row) -> tuple[str, str, str, str | None]:
    return row["kind"], row["provider"], row["model"], row["base_url"]


def _require_known_models(admin: Admin, specs: Sequence[EntitySpec], there: Sequence[Row]) -> None:
    """Raise Forbidden where a manager who is no administrator would put another local model, at no price, behind it."""
    if may_administer(admin.caller, Permission.ENDPOINTS_WRITE):
        return
    known = {row["model"] for row in there if row["kind"] == "local"}
    for spec in specs:
        if spec.kind == "local" and spec.model not in known:
            raise Forbidden(
                f"The model {spec.model!r} of the local engine is an administrator's to put behind an endpoint."
            )
