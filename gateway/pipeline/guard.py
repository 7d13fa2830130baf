"""Is it safe: what a request may carry to the models that can answer it. Refused before anything is sent.

The local engine gets an allow-list: what its server would take from a field that nobody weighed (a template, a
backend, another host) never reaches it. A refusal here is settled at zero tokens; the request itself counts.
"""

from __future__ import annotations

from engines.providers import provider_named
from gateway.errors import BadRequest
from gateway.pipeline.exchange import Exchange
from policies.catalog import EntityKind


def guard(exchange: Exchange) -> None:
    """Raises BadRequest `unsupported_field` for what an engine that may answer must not get."""
    if exchange.request.pictures:
        _guard_pictures(exchange)
    unknown = exchange.request.unknown
    if unknown and any(entity.kind is EntityKind.LOCAL for entity in exchange.endpoint.entities):
        raise BadRequest(
            f"The field {unknown[0]!r} is not accepted by {exchange.endpoint.name!r}; remove it.",
            param=unknown[0],
            code="unsupported_field",
        )


def _guard_pictures(exchange: Exchange) -> None:
    """Raises BadRequest where a model that may answer takes no pictures, or would fetch one from inside."""
    wanted = {"images", "urls"} if exchange.request.far_pictures else {"images"}
    for entity in exchange.endpoint.entities:
        has: frozenset[str] = frozenset()
        if entity.kind is not EntityKind.LOCAL:
            has = provider_named(entity.provider).features
        if not wanted <= has:
            how = "only inline (data:image/png;base64,...)" if "images" in has else "not at all"
            raise BadRequest(
                f"{exchange.endpoint.name!r} takes pictures {how}.",
                param="messages",
                code="unsupported_content",
            )
