"""What answers for an endpoint in Databricks' words: served entities and the traffic over them, read into our own.

What has no meaning here is refused, or, where it only sizes machines that nobody starts here, kept and shown again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from gateway.errors import BadRequest
from gateway.http.databricks.external_models import ExternalModel, Upstream, upstream_of
from gateway.store.endpoints import EntitySpec

EntityName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]
Short = Annotated[str, Meta(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")]
Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]


class ServedEntityInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model: `entity_name` of the local engine, or an `external_model`."""

    name: EntityName | None = None
    entity_name: Short | None = None
    entity_version: Short | None = None
    external_model: ExternalModel | None = None
    workload_size: Short | None = None
    workload_type: Short | None = None
    scale_to_zero_enabled: bool | None = None
    burst_scaling_enabled: bool | None = None
    min_provisioned_throughput: Count | None = None
    max_provisioned_throughput: Count | None = None
    min_provisioned_concurrency: Count | None = None
    max_provisioned_concurrency: Count | None = None
    provisioned_model_units: Count | None = None


class ServedModelInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same in the older words."""

    model_name: Short
    model_version: Short | None = None
    name: EntityName | None = None
    workload_size: Short | None = None
    workload_type: Short | None = None
    scale_to_zero_enabled: bool | None = None
    min_provisioned_throughput: Count | None = None
    max_provisioned_throughput: Count | None = None


class TrafficRoute(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entity's share of the traffic."""

    traffic_percentage: Annotated[int, Meta(ge=0, le=100)]
    served_entity_name: EntityName | None = None
    served_model_name: EntityName | None = None


class TrafficConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shares, 100 in all."""

    routes: Annotated[list[TrafficRoute], Meta(max_length=32)] = []


class ServingConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration of an endpoint."""

    name: Short | None = None
    served_entities: Annotated[list[ServedEntityInput], Meta(max_length=32)] | None = None
    served_models: Annotated[list[ServedModelInput], Meta(max_length=32)] | None = None
    traffic_config: TrafficConfig | None = None


class Wanted(Struct, frozen=True):
    """One entity as it should be, and whose credential pays for it."""

    spec: EntitySpec
    upstream: Upstream | None
    """None for the local engine."""


def read_config(config: ServingConfig, endpoint: str) -> tuple[list[Wanted], str | None]:
    """The entities in order, and the task that external models name; raises BadRequest."""
    if config.name not in (None, "", endpoint):
        raise BadRequest(
            f"config.name is {config.name!r}; the endpoint is {endpoint!r}.", param="config.name"
        )
    given = [*(config.served_entities or ()), *(_entity(each) for each in config.served_models or ())]
    if not given:
        raise BadRequest("An endpoint takes at least one served entity.", param="served_entities")
    names = [_name(each) for each in given]
    shares = _shares(config.traffic_config, names)
    tasks = {each.external_model.task for each in given if each.external_model is not None}
    if len(tasks) > 1:
        raise BadRequest(
            "The external models of one endpoint have one task; these have "
            + " and ".join(sorted(tasks))
            + ".",
            param="served_entities",
        )
    wanted = [
        _wanted(each, name, shares[name], place)
        for place, (each, name) in enumerate(zip(given, names, strict=True), 1)
    ]
    return wanted, next(iter(tasks), None)


def _entity(model: ServedModelInput) -> ServedEntityInput:
    values = msgspec.structs.asdict(model)
    return ServedEntityInput(
        entity_name=values.pop("model_name"), entity_version=values.pop("model_version"), **values
    )


def _name(entity: ServedEntityInput) -> str:
    if (entity.external_model is None) == (not entity.entity_name):
        raise BadRequest(
            "A served entity takes either entity_name, a model of the local engine, or external_model.",
            param="served_entities",
        )
    if entity.name is not None:
        return entity.name
    named = entity.external_model.name if entity.external_model is not None else entity.entity_name or ""
    try:
        return msgspec.convert(named, EntityName)
    except msgspec.ValidationError as error:
        raise BadRequest(
            f"The entity of {named!r} needs a name of its own.", param="served_entities"
        ) from error


def _shares(traffic: TrafficConfig | None, names: Sequence[str]) -> dict[str, int]:
    """Each entity's percentage; without a word about traffic the first has all of it."""
    if traffic is None or not traffic.routes:
        return {name: 0 if at else 100 for at, name in enumerate(names)}
    shares = dict.fromkeys(names, 0)
    for each in traffic.routes:
        name = each.served_entity_name or each.served_model_name
        if name not in shares:
            raise BadRequest(
                f"traffic_config names {name!r}, which is no served entity.", param="traffic_config"
            )
        shares[name] += each.traffic_percentage
    return shares


def _wanted(entity: ServedEntityInput, name: str, share: int, place: int) -> Wanted:
    shown: dict[str, Any] = {
        field: value
        for field in entity.__struct_fields__
        if field not in ("name", "entity_name", "external_model")
        and (value := getattr(entity, field)) is not None
    }
    # The order of the list is the order of the fallbacks, should they be enabled.
    common: dict[str, Any] = {"name": name, "traffic_percent": share, "fallback_position": place}
    if entity.external_model is None:
        spec = EntitySpec(
            kind="local", provider="vllm", model=entity.entity_name or "", shown=shown, **common
        )
        return Wanted(spec, None)
    upstream = upstream_of(entity.external_model)
    spec = EntitySpec(
        kind="external",
        provider=upstream.provider,
        model=upstream.model,
        base_url=upstream.base_url,
        options=upstream.options,
        shown=shown,
        **common,
    )
    return Wanted(spec, upstream)
