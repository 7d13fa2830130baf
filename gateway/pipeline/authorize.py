"""May they: the model's name becomes an endpoint, and the one permission function decides."""

from __future__ import annotations

from engines.clients import EMBEDDINGS
from gateway.errors import BadRequest, Forbidden, NotFound
from gateway.pipeline.exchange import Exchange
from policies.catalog import EntityKind
from policies.decision import Deny
from policies.permissions import Level, may

_EMBEDS = "llm/v1/embeddings"


def authorize(exchange: Exchange) -> None:
    """Set `endpoint`; raises NotFound, Forbidden, or BadRequest where it serves another task."""
    name = exchange.request.model
    endpoint = exchange.snapshot.endpoints.get(name)
    if endpoint is None:
        raise NotFound(
            f"There is no endpoint {name[:128]!r}; GET /v1/models lists those you may query.",
            code="model_not_found",
            param="model",
        )
    match may(exchange.snapshot, exchange.caller, Level.CAN_QUERY, endpoint):
        case Deny(code=code, reason=reason):
            raise Forbidden(reason, code=code)
        case _:
            exchange.endpoint = endpoint
    embeds = endpoint.task == _EMBEDS
    if embeds is not (exchange.request.path == EMBEDDINGS):
        wanted = "'input' on /v1/embeddings" if embeds else "chat or completions, not embeddings"
        raise BadRequest(
            f"Endpoint {endpoint.name!r} serves {endpoint.task}: it takes {wanted}.",
            param="model",
            code="unsupported_task",
        )
    if endpoint.rules.timeout_ms:
        most = exchange.received_ns + endpoint.rules.timeout_ms * 1_000_000
        exchange.deadline_ns = min(exchange.deadline_ns, most) if exchange.deadline_ns else most
    local = exchange.snapshot.local_groups
    if endpoint.local_only or (local and not local.isdisjoint(exchange.caller.principal.groups)):
        _stays(exchange)
    if exchange.group is not None:
        exchange.group = _own_group(exchange, exchange.group)


def _stays(exchange: Exchange) -> None:
    """Note that the request must not leave; raises Forbidden where nothing here could answer it."""
    exchange.local_only = True
    if not any(each.kind is EntityKind.LOCAL for each in exchange.endpoint.entities):
        raise Forbidden(
            f"Your requests must stay here, and {exchange.endpoint.name!r} is answered elsewhere;"
            " use an endpoint of the local engine.",
            code="data_residency",
        )


def _own_group(exchange: Exchange, named: str) -> str:
    """The id of the caller's group of that id or name; raises Forbidden for any other."""
    for each in exchange.caller.principal.groups:
        group = exchange.snapshot.groups.get(each)
        if each == named or (group is not None and group.name == named):
            return each
    raise Forbidden(f"The group {named[:64]!r} in x-weighbridge-group is not one of yours.")
