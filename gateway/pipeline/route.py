"""Where does it go: the split's choice and the fallbacks that are fit to be called, and why others are not.

What must stay here gets nothing that is elsewhere. A circuit that is open excludes an entity only while another can
answer: the last one is always tried.
"""

from __future__ import annotations

from gateway.errors import OutOfService, Unavailable
from gateway.pipeline.attempts import passed_over
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.line import Line
from policies.calling import Sticky
from policies.conversation import beginning
from policies.routing import RESIDENCY, Route, route, sticky_draw


def choose_route(line: Line, exchange: Exchange) -> Route:
    """The entities to try, in order, at least one; raises Unavailable (warming up) or OutOfService."""
    endpoint = exchange.endpoint
    if len(endpoint.entities) == 1 and not exchange.local_only:
        only = endpoint.entities[0]
        reason = line.engines.unfit(only)
        found = Route((only,)) if reason is None else Route((), ((only, reason),))
    else:
        found = _among(line, exchange)
    if found.order:
        return found
    if not found.excluded:
        raise OutOfService(f"Endpoint {endpoint.name!r} has no served entity; an administrator must add one.")
    reasons = "; ".join(f"{entity.name}: {reason}" for entity, reason in found.excluded)
    for entity, reason in found.excluded:
        passed_over(line, exchange, entity, reason)
    if all(reason == RESIDENCY or line.engines.gone_for_good(entity) for entity, reason in found.excluded):
        raise OutOfService(f"Endpoint {endpoint.name!r} cannot answer ({reasons}).")
    raise Unavailable(
        f"Endpoint {endpoint.name!r} is not ready yet ({reasons}). Try again in a few seconds.",
        retry_after_seconds=5,
    )


def _among(line: Line, exchange: Exchange) -> Route:
    endpoint, engines = exchange.endpoint, line.engines
    unfit: dict[str, str] = {}
    resting: dict[str, str] = {}
    for entity in endpoint.entities:
        reason = engines.unfit(entity)
        if reason is not None:
            unfit[entity.id] = reason
        elif (reason := line.traffic.refusal(entity, engines.addresses(entity))) is not None:
            resting[entity.id] = reason
    key = _stays_by(exchange)
    draw = line.draw() if key is None else sticky_draw(endpoint.id, key)
    found = route(endpoint, draw, unfit | resting, local_only=exchange.local_only, key=key)
    if not found.order and resting:
        return route(endpoint, draw, unfit, local_only=exchange.local_only, key=key)
    return found


def _stays_by(exchange: Exchange) -> str | None:
    """By what a call stays on its side of the split; None where each call is drawn anew."""
    endpoint = exchange.endpoint
    key, sticky = exchange.sticky, endpoint.rules.sticky
    if key is None and sticky is not Sticky.HEADER:
        key = exchange.request.end_user
        if key is None and sticky is Sticky.CONVERSATION:
            key = f"{exchange.caller.principal.id} {beginning(exchange.request.body).hex()}"
    return key
