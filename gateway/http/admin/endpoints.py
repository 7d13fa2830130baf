"""Endpoints with their served entities. Who may use them has routes of its own.

An endpoint is read and written whole: its version covers its entities, traffic and fallbacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from litestar import Controller, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.http.admin.access import Admin
from gateway.http.admin.calling import (
    shown_cache,
    shown_endpoint,
    shown_entity,
    shown_payloads,
    stored,
)
from gateway.http.admin.endpoint_shapes import (
    ConfigurationView,
    EndpointChange,
    EndpointView,
    EntityView,
    NewEndpoint,
    RollBack,
)
from gateway.http.admin.versions import (
    After,
    Filter,
    IfMatch,
    Page,
    Size,
    optional_id,
    set_fields,
    versioned,
)
from gateway.store.endpoint_versions import Version, roll_back, versions
from gateway.store.endpoints import (
    EntitySpec,
    create_endpoint,
    delete_endpoint,
    update_endpoint,
)
from gateway.store.reading import Row, current, page, rows
from gateway.store.tables.catalog import endpoints, served_entities
from policies.administration import Permission


class Endpoints(Controller):
    """Endpoints."""

    path = "/endpoints"
    tags = ("Endpoints",)

    @get("/", opt={"permission": Permission.ENDPOINTS_READ}, summary="List endpoints, in order of id")
    async def list_all(
        self,
        admin: NamedDependency[Admin],
        after: After = None,
        size: Size = 50,
        name: Filter = None,
    ) -> Page[EndpointView]:
        """`name` finds the one of exactly that name."""
        conditions: list[Any] = [] if name is None else [endpoints.c.name == name]
        async with admin.reading() as connection:
            found, following = await page(
                connection, endpoints, *conditions, after=optional_id(after), size=size
            )
            return Page(await _views(connection, found), following)

    @post("/", opt={"permission": Permission.ENDPOINTS_WRITE}, summary="Create an endpoint")
    async def create(
        self, admin: NamedDependency[Admin], data: JSONBody[NewEndpoint]
    ) -> Response[EndpointView]:
        """Nobody but administrators may use it until it is granted."""
        values = set_fields(data)
        entities = values.pop("served_entities")
        values["settings"] = _settings({}, values)
        async with admin.change() as change:
            row = await create_endpoint(change, values, [_spec(each) for each in entities])
            view = (await _views(change.connection, [row]))[0]
        return versioned(row, view, status_code=201)

    @get("/{endpoint_id:uuid}", opt={"permission": Permission.ENDPOINTS_READ}, summary="Read an endpoint")
    async def read(
        self, admin: NamedDependency[Admin], endpoint_id: FromPath[UUID]
    ) -> Response[EndpointView]:
        """Answers its version as `ETag`."""
        async with admin.reading() as connection:
            row = await current(connection, endpoints, str(endpoint_id), "endpoint")
            return versioned(row, (await _views(connection, [row]))[0])

    @patch(
        "/{endpoint_id:uuid}", opt={"permission": Permission.ENDPOINTS_WRITE}, summary="Change an endpoint"
    )
    async def update(
        self,
        admin: NamedDependency[Admin],
        endpoint_id: FromPath[UUID],
        data: JSONBody[EndpointChange],
        if_match: IfMatch = None,
    ) -> Response[EndpointView]:
        """Requests under way end as they began."""
        values = set_fields(data)
        entities = values.pop("served_entities", None)
        async with admin.revising(endpoints, endpoint_id, "endpoint", if_match) as (change, before):
            if values.keys() & _IN_SETTINGS.keys():
                values["settings"] = _settings(before["settings"], values)
            specs = None if entities is None else [_spec(each) for each in entities]
            row = await update_endpoint(change, before, values, specs)
            view = (await _views(change.connection, [row]))[0]
        return versioned(row, view)

    @delete(
        "/{endpoint_id:uuid}", opt={"permission": Permission.ENDPOINTS_WRITE}, summary="Delete an endpoint"
    )
    async def remove(
        self, admin: NamedDependency[Admin], endpoint_id: FromPath[UUID], if_match: IfMatch = None
    ) -> None:
        """Its grants and limits end with it; the ledger keeps its name."""
        async with admin.revising(endpoints, endpoint_id, "endpoint", if_match) as (change, before):
            await delete_endpoint(change, before)

    @get(
        "/{endpoint_id:uuid}/versions",
        opt={"permission": Permission.ENDPOINTS_READ},
        summary="What answered for an endpoint, version by version",
    )
    async def list_versions(
        self, admin: NamedDependency[Admin], endpoint_id: FromPath[UUID]
    ) -> Page[ConfigurationView]:
        """The newest first."""
        async with admin.reading() as connection:
            await current(connection, endpoints, str(endpoint_id), "endpoint")
            found = await versions(connection, str(endpoint_id))
        return Page([_configuration(each) for each in found])

    @post(
        "/{endpoint_id:uuid}/rollback",
        opt={"permission": Permission.ENDPOINTS_WRITE},
        status_code=200,
        summary="Go back to an earlier version of what answers",
    )
    async def roll_back(
        self,
        admin: NamedDependency[Admin],
        endpoint_id: FromPath[UUID],
        data: JSONBody[RollBack],
        if_match: IfMatch = None,
    ) -> Response[EndpointView]:
        """It becomes a new version; prices and credentials that still belong to it are its own again."""
        async with admin.revising(endpoints, endpoint_id, "endpoint", if_match) as (change, before):
            row = await roll_back(change, before, data.config_version)
            view = (await _views(change.connection, [row]))[0]
        return versioned(row, view)


def _spec(entity: EntityView) -> EntitySpec:
    return EntitySpec(
        name=entity.name,
        kind=entity.kind,
        provider=entity.provider,
        model=entity.model,
        base_url=entity.base_url,
        traffic_percent=entity.traffic_percent,
        fallback_position=entity.fallback_position,
        rules=stored(entity.calling),
        options=entity.options,
        credential_id=optional_id(entity.credential_id),
    )


_IN_SETTINGS = {"calling": "rules", "payloads": "payloads", "cache": "cache"}
"""Fields that are kept among the settings, and under which name."""


def _settings(before: Mapping[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """An endpoint's settings with the rules that are taken out of `values`; what belongs to other features stays."""
    settings = dict(before)
    for name, kept in _IN_SETTINGS.items():
        if name in values:
            settings.pop(kept, None)
            if rules := stored(values.pop(name)):
                settings[kept] = dict(rules)
    return settings


def _entity(row: Row) -> EntityView:
    return EntityView(
        id=UUID(row["id"]),
        name=row["name"],
        kind=row["kind"],
        provider=row["provider"],
        model=row["model"],
        base_url=row["base_url"],
        traffic_percent=row["traffic_percent"],
        fallback_position=row["fallback_position"],
        calling=shown_entity(row["settings"]),
        options=row["settings"].get("options", {}),
        credential_id=None if row["credential_id"] is None else UUID(row["credential_id"]),
    )


def _configuration(version: Version) -> ConfigurationView:
    return ConfigurationView(
        config_version=version.number,
        began_at=version.endpoint["valid_from"],
        served_entities=[_entity(each) for each in version.entities],
    )


async def _views(connection: AsyncConnection, found: list[Row]) -> list[EndpointView]:
    ids = [row["id"] for row in found]
    entities: dict[str, list[EntityView]] = {}
    for row in await rows(connection, served_entities, served_entities.c.endpoint_id.in_(ids)):
        entities.setdefault(row["endpoint_id"], []).append(_entity(row))
    return [
        EndpointView(
            id=row["id"],
            name=row["name"],
            aliases=list(row["aliases"]),
            task=row["task"],
            description=row["description"],
            tags=row["tags"],
            estimate_milli=row["estimate_milli"],
            default_max_tokens=row["default_max_tokens"],
            local_only=row["local_only"],
            calling=shown_endpoint(row["settings"]),
            payloads=shown_payloads(row["settings"]),
            cache=shown_cache(row["settings"]),
            served_entities=entities.get(row["id"], []),
            config_version=row["config_version"],
            creator=row["creator"],
            created_at=row["created_at"],
            managed_by=row["managed_by"],
            updated_at=row["valid_from"],
        )
        for row in found
    ]
