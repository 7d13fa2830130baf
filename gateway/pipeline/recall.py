"""Was it answered before: an endpoint that asks for it gives its answers again, to the same question in the same scope.

Looked up after admission, guard and route, so that nothing is given to whom a call would not have been: the key holds the
endpoint's version, the entity that would be called, the caller's scope and all that would be sent. An answer given again uses
no tokens, is called nowhere, and costs what the entity's price says of it.
"""

from __future__ import annotations

import logging

import msgspec

from engines.clients import EMBEDDINGS
from engines.errors import EngineError
from engines.replay import either, plain_of, stream_of
from gateway.errors import NotStored
from gateway.pipeline.dispatch import call_plain
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.line import Line
from gateway.pipeline.ports import Outlet, Stored
from policies.caching import BYPASS, HIT, MISS, CacheRules, scope_key, storable, whole
from policies.catalog import ServedEntity
from policies.routing import Route

log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder(order="sorted").encode


async def recalled_or_called(line: Line, exchange: Exchange, route: Route) -> bytes:
    """The plain answer, stored or new; raises GatewayError."""
    stored = await _found(line, exchange, route)
    if stored is not None:
        _give(line, exchange, route.order[0], stored)
        return stored.body
    _may_call(exchange)
    body = await call_plain(line, exchange, route)
    if exchange.storing:
        _keep(line, exchange, body)
    return body


async def recalled_stream(line: Line, exchange: Exchange, route: Route) -> bytes | None:
    """All frames of a stored answer; None where it is to be called for."""
    stored = await _found(line, exchange, route)
    if stored is None:
        _may_call(exchange)
        return None
    request = exchange.request
    try:
        frames = stream_of(
            request.path,
            stored.body,
            request.body,
            show_usage=request.show_usage,
            model=route.order[0].model,
            now=stored.at_ms // 1000,
        )
    except EngineError:
        log.exception("a stored answer of %s cannot be streamed", exchange.endpoint.name)
        exchange.cache = MISS
        _may_call(exchange)
        return None
    _give(line, exchange, route.order[0], stored)
    return frames


class Recorder:
    """The way to the client of a stream that is to be stored: what passes is noted, as long as it is not too much."""

    __slots__ = ("_exchange", "_left", "_line", "_outlet", "_parts")

    def __init__(self, line: Line, exchange: Exchange, outlet: Outlet) -> None:
        self._line = line
        self._exchange = exchange
        self._outlet = outlet
        self._parts: list[bytes] = []
        # A frame is a few times as long as what it adds to the answer.
        rules = exchange.endpoint.cache
        self._left = _FRAMES * rules.max_kb * 1024 if rules is not None else 0

    def write(self, frames: bytes) -> bool:
        self._left -= len(frames)
        if self._left >= 0:
            self._parts.append(frames)
        return self._outlet.write(frames)

    async def ready(self) -> None:
        await self._outlet.ready()

    def ended(self) -> None:
        """The stream was whole, and is settled: store what it came to."""
        line, exchange = self._line, self._exchange
        request, entity = exchange.request, exchange.entity
        if self._left < 0 or entity is None:
            return
        try:
            body = plain_of(
                request.path,
                b"".join(self._parts),
                request.body,
                count=exchange.count,
                model=entity.model,
                now=line.wall_ms() // 1000,
            )
        except EngineError:
            # It had what its dialect's readers do not know: it was passed on, and is not given again.
            log.debug("an answer of %s is not stored", exchange.endpoint.name, exc_info=True)
            return
        _keep(line, exchange, body)


async def _found(line: Line, exchange: Exchange, route: Route) -> Stored | None:
    """The answer that may be given again; notes what came of the question, and whether the new answer is to be stored."""
    rules, wish = exchange.endpoint.cache, exchange.wish
    exchange.cache = BYPASS
    if rules is None or line.answers is None or not _may(rules, exchange):
        return None
    exchange.storing = wish.store
    if not wish.read:
        return None
    exchange.cache = MISS
    stored = await line.answers.find(_question(exchange, rules, route.order[0]))
    if stored is None:
        return None
    age = max(0, line.wall_ms() - stored.at_ms) // 1000
    if age > (rules.ttl_seconds if wish.max_age_seconds is None else wish.max_age_seconds):
        return None
    exchange.cache, exchange.cache_age = HIT, age
    return stored


def _may_call(exchange: Exchange) -> None:
    """Raise NotStored where the caller wants no model to be called."""
    if exchange.wish.only:
        raise NotStored("No answer to this is stored, and only a stored one was asked for (only-if-cached).")


def _may(rules: CacheRules, exchange: Exchange) -> bool:
    request = exchange.request
    if exchange.turn is not None:
        # It is kept under an id of its own, for the call that follows it.
        return False
    return storable(
        rules,
        generates=request.path != EMBEDDINGS,
        temperature=request.body.get("temperature"),
        choices=request.n,
        far_pictures=request.far_pictures,
    ) and (not request.stream or either(request.path, request.body))


def _question(exchange: Exchange, rules: CacheRules, entity: ServedEntity) -> bytes:
    """All that must be the same for an answer to be the same, and to be this caller's to have."""
    request, endpoint, reservation = exchange.request, exchange.endpoint, exchange.reservation
    assert reservation is not None
    return _encode(
        (
            _FORM,
            endpoint.id,
            endpoint.version,
            scope_key(rules, exchange.caller.principal.id, reservation.group_id),
            (entity.id, entity.provider, entity.model, entity.base_url, entity.options),
            request.path,
            request.max_tokens,
            request.body,
            request.shared_headers,
        )
    )


def _give(line: Line, exchange: Exchange, entity: ServedEntity, stored: Stored) -> None:
    """The stored answer is the request's."""
    exchange.entity = entity
    exchange.attempt += 1
    exchange.dispatched_ns = exchange.first_byte_ns = line.monotonic_ns()
    exchange.finish_reason = stored.finish_reason
    exchange.http_status = 200


def _keep(line: Line, exchange: Exchange, body: bytes) -> None:
    """Store a plain answer, if it is all there is to say and not too long; never fails."""
    rules, entity, count = exchange.endpoint.cache, exchange.entity, exchange.count
    if rules is None or line.answers is None or entity is None or len(body) > rules.max_kb * 1024:
        return
    bounded = exchange.request.max_tokens is not None
    fits = count is not None and count.completion <= exchange.endpoint.default_max_tokens
    if whole(exchange.finish_reason, bounded=bounded, fits_default=fits):
        stored = Stored(line.wall_ms(), exchange.finish_reason, body)
        line.answers.keep(_question(exchange, rules, entity), stored, rules.ttl_seconds)


_FORM = 1
"""Counts up when the same question would be answered in another form."""
_FRAMES = 16
