"""What is put on record of each call upstream, and of each entity that was passed over.

What an attempt used is what its upstream told, also where it told it as it failed; nobody's time is charged before a first byte.
"""

from __future__ import annotations

from collections.abc import Iterable

from engines.adapter import StreamReader
from engines.errors import EngineError
from engines.messages import Count
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.line import Line
from gateway.spool.records import Attempt, Progress
from policies.catalog import ServedEntity
from policies.doubts import doubt
from policies.usage import Usage, UsageSource, cost_nano_usd, inclusive

CACHED = "cached"
"""The outcome of an attempt that called nothing: a stored answer was given again."""
_NOTHING = Usage()


def begin_attempt(line: Line, exchange: Exchange, entity: ServedEntity) -> None:
    """Note that the entity is called from now on."""
    exchange.attempt += 1
    exchange.entity = entity
    exchange.dispatched = True
    exchange.dispatched_ns = line.monotonic_ns()
    exchange.first_byte_ns = None
    if exchange.resumable:
        line.spool.append(
            Progress(
                request_id=exchange.id,
                attempt=exchange.attempt,
                at_ms=line.wall_ms(),
                entity_id=entity.id,
                first_byte=False,
                prompt_tokens=0,
                completion_tokens=0,
            )
        )


def passed_over(line: Line, exchange: Exchange, entity: ServedEntity, reason: str) -> None:
    """Put on record that the entity was not called, and why."""
    exchange.attempt += 1
    exchange.dispatched_ns = line.monotonic_ns()
    exchange.first_byte_ns = None
    why, exchange.why = exchange.why, reason
    record = attempt_record(line, exchange, entity, _NOTHING, outcome="excluded")
    exchange.why = why
    exchange.attempts.append(record)
    line.spool.append(record)


def failed_attempt(
    line: Line, exchange: Exchange, entity: ServedEntity, failure: EngineError, reader: StreamReader | None
) -> Usage:
    """Put on record that the present attempt failed before its first byte; what it used by all that was told."""
    usage, count = _NOTHING, told_by(failure, reader)
    if count is not None:
        usage = inclusive(
            count.prompt,
            count.completion,
            cache_read=count.cached,
            cache_write=count.cache_write,
            reasoning=count.reasoning,
            source=UsageSource.REPORTED if count.exact else UsageSource.COUNTED,
        )
        request = exchange.request
        found = doubt(
            prompt=count.prompt,
            completion=count.completion,
            reasoning=count.reasoning,
            sent_bytes=len(exchange.received) + request.text_bytes + request.token_ids,
            messages=request.messages,
            pieces=0,
            estimated=False,
            answer_bytes=0,
        )
        if found is not None:
            exchange.why = found.said if exchange.why is None else f"{exchange.why}; {found.said}"
        line.observer.failed(exchange, usage, found)
    record = attempt_record(
        line,
        exchange,
        entity,
        usage,
        outcome=failure.outcome,
        status=failure.status,
        error_code=failure.code,
    )
    exchange.attempts.append(record)
    line.spool.append(record)
    return usage


def told_by(failure: EngineError, reader: StreamReader | None) -> Count | None:
    """What an attempt that failed had used: as told with the failure, unless its stream told or brought more before."""
    told, before = failure.count, None if reader is None else reader.count
    if told is None or (reader is not None and told.completion < reader.running):
        return before
    return told if told.exact or before is None else before


def borne(attempts: Iterable[Attempt]) -> tuple[int, int, int]:
    """What the caller bears of these: prompt and completion tokens, and nano-dollars."""
    prompt = completion = cost = 0
    for each in attempts:
        # What a kill of ours cut short and was made again is not the caller's to bear.
        if each.outcome != "interrupted":
            prompt += each.fresh_input + each.cache_read + each.cache_write
            completion += each.output + each.reasoning
            cost += each.cost_nano_usd
    return prompt, completion, cost


def attempt_record(
    line: Line,
    exchange: Exchange,
    entity: ServedEntity,
    usage: Usage,
    *,
    outcome: str,
    status: int | None = None,
    error_code: str | None = None,
    now: int = 0,
    now_ms: int = 0,
) -> Attempt:
    """The record of the present attempt as it ends: at `now`, where the clocks were read already."""
    began, first = exchange.dispatched_ns, exchange.first_byte_ns
    now = now or line.monotonic_ns()
    took_us = (now - began) // 1000
    if outcome == CACHED:
        cost = entity.price.per_cache_hit
    else:
        billed = outcome == "ok" or usage.total_tokens > 0
        cost = cost_nano_usd(usage, entity.price, 0 if first is None else took_us) if billed else 0
    had = exchange.lease.had if exchange.lease is not None else None
    # By position, as an intent is made.
    return Attempt(
        exchange.id,
        exchange.attempt,
        entity.id,
        entity.name,
        entity.model,
        (now_ms or line.wall_ms()) - (now - began) // 1_000_000,
        None if first is None else (first - began) // 1000,
        took_us,
        outcome,
        status,
        error_code,
        usage.fresh_input,
        usage.cache_read,
        usage.cache_write,
        usage.output,
        usage.reasoning,
        str(usage.source),
        entity.price.id,
        cost,
        exchange.why,
        had.provision.id if had is not None and had.provision is not None else None,
        had.lane.value if had is not None else None,
    )
