"""Call the engine: attempts, fallback before the first byte only, and the tokens counted on the way.

Every attempt that fails is on record before the next one starts. An EngineError becomes the caller's error here; what
the upstream said stays here too.
"""

from __future__ import annotations

import re

from engines.chat_stream import ChatStream
from engines.errors import EngineError, Refused, TimedOut
from engines.messages import Count, believed
from engines.openai import Call
from engines.transport import OpenResponse
from gateway import crashpoints
from gateway.errors import BadRequest, GatewayError, UpstreamFailed, UpstreamTimeout
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.line import Line
from gateway.pipeline.settle import attempt_record
from gateway.spool.records import Progress
from policies.catalog import ServedEntity
from policies.estimate import prompt_estimate
from policies.usage import Usage

_CONTEXT = re.compile(rb"maximum context length is (\d+) tokens")


async def call_plain(line: Line, exchange: Exchange, order: tuple[ServedEntity, ...]) -> bytes:
    """The answer's bytes from the first entity that gives one; sets the counts. Raises GatewayError."""
    failure: EngineError | None = None
    for entity in order:
        begin_attempt(line, exchange, entity)
        try:
            completed = await line.engines.adapter(entity).complete(_call(line, exchange, entity))
        except EngineError as exc:
            failure = exc
            attempt_failed(line, exchange, entity, exc)
            if not exc.retryable:
                break
            continue
        exchange.first_byte_ns = line.monotonic_ns()
        answer = completed.answer
        count = believed(answer.usage)
        if count is not None:
            exchange.count, exchange.source = count, "reported"
        else:
            _estimate(exchange, completed.body)
        exchange.finish_reason = answer.choices[0].finish_reason
        crashpoints.reach("before_first_byte")
        return completed.body
    raise translated(failure)


async def open_stream(
    line: Line, exchange: Exchange, order: tuple[ServedEntity, ...]
) -> tuple[OpenResponse, ChatStream, bytes]:
    """The first entity's stream that begins, its reader, and the first bytes for the client. Raises GatewayError."""
    request = exchange.request
    reservation = exchange.reservation
    assert reservation is not None
    failure: EngineError | None = None
    for entity in order:
        begin_attempt(line, exchange, entity)
        opened = None
        try:
            opened = await line.engines.adapter(entity).open(_call(line, exchange, entity))
            reader = ChatStream(
                show_usage=request.show_usage,
                show_running=request.show_running,
                limit=reservation.granted_output,
            )
            first = b""
            while not first and not reader.done and not reader.exhausted:
                data = await opened.read()
                if not data:
                    reader.ended()
                    break
                first = reader.feed(data)
        except EngineError as exc:
            if opened is not None:
                opened.close()
            failure = exc
            attempt_failed(line, exchange, entity, exc)
            if not exc.retryable:
                break
            continue
        except BaseException:
            if opened is not None:
                opened.close()
            raise
        exchange.first_byte_ns = line.monotonic_ns()
        return opened, reader, first
    raise translated(failure)


def begin_attempt(line: Line, exchange: Exchange, entity: ServedEntity) -> None:
    """Note that the entity is called from now on."""
    exchange.attempt += 1
    exchange.entity = entity
    exchange.dispatched = True
    exchange.dispatched_ns = line.monotonic_ns()
    exchange.first_byte_ns = None


def attempt_failed(line: Line, exchange: Exchange, entity: ServedEntity, exc: EngineError) -> None:
    """Put a failed attempt on record; it costs the caller nothing."""
    exchange.dispatched = False
    record = attempt_record(
        line, exchange, entity, Usage(), outcome=exc.outcome, status=exc.status, error_code=exc.code
    )
    exchange.attempts.append(record)
    line.spool.append(record)


def checkpoint(line: Line, exchange: Exchange, reader: ChatStream) -> None:
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


def translated(exc: EngineError | None) -> GatewayError:
    """What the caller is told of an upstream's failure; never its own words."""
    if isinstance(exc, TimedOut):
        return UpstreamTimeout(
            "The model's server did not answer in time. Nothing was charged for it; try again."
        )
    if isinstance(exc, Refused) and exc.status in (400, 413, 422):
        context = _CONTEXT.search(exc.body)
        if context is not None:
            limit = int(context.group(1)) if len(context.group(1)) < 10 else 0
            return BadRequest(
                f"Prompt and 'max_tokens' together are longer than the model's context of {limit:,} tokens; shorten one of them.",
                param="messages",
                code="context_length_exceeded",
            )
        return BadRequest(
            "The model's server refused the request as invalid; check parameters such as tools, response_format,"
            " logprobs and stop against what this model supports.",
            code="rejected_by_model",
        )
    if isinstance(exc, Refused) and exc.status == 404:
        return UpstreamFailed(
            "The model's server does not know the model; an administrator must check the served entity."
        )
    return UpstreamFailed(
        "The model's server failed before it answered. Nothing was charged for it; try again."
    )


def _call(line: Line, exchange: Exchange, entity: ServedEntity) -> Call:
    request, reservation = exchange.request, exchange.reservation
    assert reservation is not None
    most = request.max_tokens
    if most is None and not request.stream:
        # A plain call cannot be stopped on the way: what was reserved is all that may come.
        most = exchange.endpoint.default_max_tokens
    principal = exchange.caller.principal
    return Call(
        path=request.path,
        body=request.body,
        model=entity.model,
        max_tokens=most,
        headers={"x-request-id": exchange.id_text},
        cache_salt=line.cache_salt(reservation.group_id or principal.id),
    )


def _estimate(exchange: Exchange, body: bytes) -> None:
    """The upstream gave no usage that can be believed: estimate both sides from bytes, and say so."""
    request, milli = exchange.request, exchange.endpoint.estimate_milli
    exchange.source = "estimated"
    exchange.count = Count(
        prompt=prompt_estimate(request.text_bytes, request.messages, milli) + request.token_ids,
        completion=prompt_estimate(len(body), 0, milli) // 2,
    )
