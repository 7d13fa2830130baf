"""Call the engine: try after try before the first byte only (tries.py), and the tokens counted on the way.

Every attempt that fails is on record before the next one starts. An EngineError becomes the caller's error by
failures.py; what the upstream said stays here.
"""

from __future__ import annotations

from engines.adapter import Call, StreamReader
from engines.errors import EngineError
from engines.messages import Count, believed
from engines.transport import OpenResponse
from gateway import crashpoints
from gateway.pipeline.attempts import borne
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.failures import translated
from gateway.pipeline.line import Line
from gateway.pipeline.tries import Tries
from gateway.pipeline.weighing import estimated_prompt
from gateway.spool.records import Progress
from policies.doubts import Doubt
from policies.estimate import prompt_estimate
from policies.routing import Route
from policies.usage import UsageSource


async def call_plain(line: Line, exchange: Exchange, route: Route) -> bytes:
    """The answer's bytes from the first entity that gives one; sets the counts. Raises GatewayError."""
    tries = Tries(line, exchange, route)
    while (adapter := await tries.next()) is not None:
        try:
            work = adapter.complete(_call(line, exchange))
            completed = await (tries.bounded(work) if tries.timed else work)
        except EngineError as exc:
            tries.failed(exc)
            continue
        tries.answered()
        answer = completed.answer
        count = believed(answer.usage)
        if count is not None:
            exchange.count, exchange.source = count, UsageSource.REPORTED
            exchange.answer = completed.body
        else:
            if answer.usage is not None and answer.usage.is_told:
                exchange.doubt = Doubt.IMPOSSIBLE
            _estimate(exchange, completed.body)
        exchange.finish_reason = answer.choices[0].finish_reason
        crashpoints.reach("before_first_byte")
        return completed.body
    raise translated(tries.failure, charged=any(borne(exchange.attempts)))


async def open_stream(
    line: Line, exchange: Exchange, route: Route
) -> tuple[OpenResponse, StreamReader, bytes]:
    """The first entity's stream that begins, its reader, and the first bytes for the client. Raises GatewayError."""
    request, reservation = exchange.request, exchange.reservation
    assert reservation is not None
    tries = Tries(line, exchange, route)
    while (adapter := await tries.next()) is not None:
        opened = reader = None
        call = _call(line, exchange)
        try:
            opened = await tries.bounded(adapter.open(call), first_token=True)
            reader = adapter.reader(
                call,
                show_usage=request.show_usage,
                show_running=request.show_running,
                limit=reservation.granted_output,
            )
            first = await tries.bounded(_beginning(opened, reader), first_token=True)
        except EngineError as exc:
            if opened is not None:
                opened.close()
            tries.failed(exc, reader)
            continue
        except BaseException:
            if opened is not None:
                opened.close()
            raise
        tries.answered()
        return opened, reader, first
    raise translated(tries.failure, charged=any(borne(exchange.attempts)))


async def _beginning(opened: OpenResponse, reader: StreamReader) -> bytes:
    """The client's first bytes: up to a token, so that a stream which dies before it can still be had elsewhere."""
    first = b""
    while not reader.done and not reader.exhausted:
        data = await opened.read()
        if not data:
            reader.ended()
            return first + reader.feed(b"")
        more = reader.feed(data)
        # What follows the preamble is a token, though it be of a kind that nobody counts.
        if reader.running or reader.finish_reason or (first and more):
            return first + more
        first += more
    return first


def checkpoint(line: Line, exchange: Exchange, reader: StreamReader) -> None:
    """Put the tokens so far on record, so that a killed worker is billed near the truth."""
    entity, reservation, count = exchange.entity, exchange.reservation, reader.count
    assert entity is not None
    assert reservation is not None
    line.spool.append(
        Progress(
            request_id=exchange.id,
            attempt=exchange.attempt,
            at_ms=line.wall_ms(),
            entity_id=entity.id,
            first_byte=True,
            prompt_tokens=count.prompt if count is not None else 0,
            completion_tokens=reader.running,
            cache_read_tokens=count.cached if count is not None else 0,
        )
    )


def _call(line: Line, exchange: Exchange) -> Call:
    request, reservation, entity = exchange.request, exchange.reservation, exchange.entity
    assert reservation is not None
    assert entity is not None
    most = request.max_tokens
    if most is None and not request.stream:
        # A plain call cannot be stopped on the way: what was reserved is all that may come.
        most = exchange.endpoint.default_max_tokens
    principal = exchange.caller.principal
    had = exchange.lease.had if exchange.lease is not None else None
    return Call(
        path=request.path,
        body=request.body,
        model=entity.model,
        max_tokens=most,
        headers={"x-request-id": exchange.id_text},
        cache_salt=line.cache_salt(reservation.group_id or principal.id),
        shared_headers=request.shared_headers,
        priority=had.priority if had is not None else None,
    )


def _estimate(exchange: Exchange, body: bytes) -> None:
    """The upstream gave no usage that can be believed: estimate both sides from bytes, and say so."""
    request, milli = exchange.request, exchange.endpoint.estimate_milli
    exchange.source = UsageSource.ESTIMATED
    exchange.count = Count(
        prompt=estimated_prompt(request, exchange.endpoint),
        completion=0 if request.max_tokens == 0 else prompt_estimate(len(body), 0, milli) // 2,
    )
