"""In which order an endpoint's served entities are tried: the split's choice, then the fallbacks, with the reasons."""

from __future__ import annotations

from dataclasses import dataclass

from policies.catalog import Endpoint, ServedEntity


@dataclass(frozen=True, slots=True)
class Route:
    """Entities in the order in which they are tried, and why others are not."""

    order: tuple[ServedEntity, ...]
    excluded: tuple[tuple[ServedEntity, str], ...] = ()


def route(endpoint: Endpoint, draw: float, unfit: dict[str, str]) -> Route:
    """Order the endpoint's entities.

    `draw` is uniform in [0, 1) and picks from the traffic split; `unfit` maps entity ids to the reason for leaving
    them out. An unfit choice of the split gives way to the fallbacks.
    """
    chosen = _chosen(endpoint, draw)
    order = [chosen] if chosen is not None else []
    by_name = {entity.name: entity for entity in endpoint.entities}
    order += [by_name[name] for name in endpoint.fallbacks if name in by_name and by_name[name] is not chosen]
    fit = tuple(entity for entity in order if entity.id not in unfit)
    return Route(fit, tuple((entity, unfit[entity.id]) for entity in order if entity.id in unfit))


def _chosen(endpoint: Endpoint, draw: float) -> ServedEntity | None:
    if not endpoint.split:
        return endpoint.entities[0] if endpoint.entities else None
    total = sum(percent for _, percent in endpoint.split)
    reached = 0.0
    for name, percent in endpoint.split:
        reached += percent / total
        if draw < reached:
            return next((entity for entity in endpoint.entities if entity.name == name), None)
    return None
