"""Where does it go: the split's choice and the fallbacks that are fit to be called."""

from __future__ import annotations

from gateway.errors import OutOfService, Unavailable
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.line import Line
from policies.catalog import ServedEntity
from policies.routing import route


def choose_route(line: Line, exchange: Exchange) -> tuple[ServedEntity, ...]:
    """The entities to try, in order, at least one; raises Unavailable (warming up) or OutOfService."""
    endpoint = exchange.endpoint
    unfit: dict[str, str] = {}
    for entity in endpoint.entities:
        reason = line.engines.unfit(entity)
        if reason is not None:
            unfit[entity.id] = reason
    chosen = route(endpoint, line.draw(), unfit)
    if chosen.order:
        return chosen.order
    if not chosen.excluded:
        raise OutOfService(f"Endpoint {endpoint.name!r} has no served entity; an administrator must add one.")
    reasons = "; ".join(f"{entity.name}: {reason}" for entity, reason in chosen.excluded)
    if all(line.engines.gone_for_good(entity) for entity, _ in chosen.excluded):
        raise OutOfService(f"Endpoint {endpoint.name!r} cannot answer ({reasons}).")
    raise Unavailable(
        f"Endpoint {endpoint.name!r} is not ready yet ({reasons}). Try again in a few seconds.",
        retry_after_seconds=5,
    )
