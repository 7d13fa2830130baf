"""In which order an endpoint's served entities are tried: the split's choice, then the fallbacks, with the reasons.

A request that must stay here gets no entity that is elsewhere, whatever the split and the fallbacks say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import msgspec

from policies.catalog import Endpoint, EntityKind, ServedEntity

RESIDENCY = "it is elsewhere, and the request must stay here"


class Route(msgspec.Struct, frozen=True, gc=False):
    """Entities in the order in which they are tried, and why others are not."""

    order: tuple[ServedEntity, ...]
    excluded: tuple[tuple[ServedEntity, str], ...] = ()


def route(
    endpoint: Endpoint,
    draw: float,
    unfit: Mapping[str, str],
    *,
    local_only: bool = False,
    key: str | None = None,
) -> Route:
    """Order the endpoint's entities.

    `draw` is uniform in [0, 1) and picks from the traffic split, then among fallbacks of the same position; a `key` has
    a side of the split of its own. `unfit` maps entity ids to the reason for leaving them out. An unfit choice of the
    split gives way to the fallbacks.
    """
    chosen = _chosen(endpoint, draw) if key is None else _side(endpoint, key)
    order = [] if chosen is None else [chosen]
    order += (each for each in _fallbacks(endpoint, draw) if each is not chosen)
    fit: list[ServedEntity] = []
    excluded: list[tuple[ServedEntity, str]] = []
    for entity in order:
        if local_only and entity.kind is not EntityKind.LOCAL:
            excluded.append((entity, RESIDENCY))
        elif (reason := unfit.get(entity.id)) is not None:
            excluded.append((entity, reason))
        else:
            fit.append(entity)
    return Route(tuple(fit), tuple(excluded))


def sticky_draw(endpoint_id: str, key: str) -> float:
    """The draw that belongs to a key: always the same for an endpoint, uniform in [0, 1) over keys."""
    digest = blake2b(f"{endpoint_id}\0{key}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / (1 << 56)


def _chosen(endpoint: Endpoint, draw: float) -> ServedEntity | None:
    if not endpoint.split:
        return endpoint.entities[0] if endpoint.entities else None
    total = sum(percent for _, percent in endpoint.split)
    reached = 0
    for name, percent in endpoint.split:
        reached += percent
        if draw * total < reached:
            return endpoint.entity(name)
    return endpoint.entity(endpoint.split[-1][0])


def _side(endpoint: Endpoint, key: str) -> ServedEntity | None:
    """The entity to which a key belongs: of all, the first whose turn comes in a race that percentages make faster.

    A race for each key and entity (rendezvous hashing by weight): what others are given does not change who wins among
    the rest, so that a key moves only to an entity that was given more, or away from one that was given less.
    """
    if not endpoint.split:
        return _chosen(endpoint, 0.0)
    first, found = math.inf, None
    for name, percent in endpoint.split:
        entity = endpoint.entity(name)
        if entity is not None and percent > 0:
            turn = -math.log(1.0 - sticky_draw(endpoint.id, f"{entity.id}\0{key}")) / percent
            if turn < first or found is None:
                first, found = turn, entity
    return found


def _fallbacks(endpoint: Endpoint, draw: float) -> Sequence[ServedEntity]:
    """The fallbacks in the order of their positions; those that share one are shuffled by their weights."""
    if not endpoint.ranks:
        return [each for name in endpoint.fallbacks if (each := endpoint.entity(name)) is not None]
    order: list[ServedEntity] = []
    for names in endpoint.ranks:
        waiting = [each for name in names if (each := endpoint.entity(name)) is not None]
        while waiting:
            # A draw of its own for each choice: the split's would always meet the same fallback.
            draw = (draw * 7919.0 + 0.618) % 1.0
            at = draw * sum(each.rules.fallback_weight for each in waiting)
            for entity in waiting:
                at -= entity.rules.fallback_weight
                if at < 0:
                    break
            else:
                entity = waiting[-1]
            order.append(entity)
            waiting.remove(entity)
    return order
