"""What is put on record of each call upstream, and of each entity that was passed over."""

from __future__ import annotations

from gateway.pipeline.exchange import Exchange
from gateway.pipeline.line import Line
from gateway.spool.records import Attempt, Progress
from policies.catalog import ServedEntity
from policies.usage import Usage, cost_nano_usd

CACHED = "cached"
"""The outcome of an attempt that called nothing: a stored answer was given again."""


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
    record = attempt_record(line, exchange, entity, Usage(), outcome="excluded")
    exchange.why = why
    exchange.attempts.append(record)
    line.spool.append(record)


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
        cost = cost_nano_usd(usage, entity.price, took_us) if billed else 0
    had = exchange.lease.had if exchange.lease is not None else None
    return Attempt(
        request_id=exchange.id,
        attempt=exchange.attempt,
        entity_id=entity.id,
        entity_name=entity.name,
        model=entity.model,
        started_at_ms=(now_ms or line.wall_ms()) - (now - began) // 1_000_000,
        first_byte_us=None if first is None else (first - began) // 1000,
        duration_us=took_us,
        outcome=outcome,
        status=status,
        error_code=error_code,
        fresh_input=usage.fresh_input,
        cache_read=usage.cache_read,
        cache_write=usage.cache_write,
        output=usage.output,
        reasoning=usage.reasoning,
        usage_source=str(usage.source),
        price_id=entity.price.id,
        cost_nano_usd=cost,
        reason=exchange.why,
        provision_id=had.provision.id if had is not None and had.provision is not None else None,
        lane=had.lane.value if had is not None else None,
    )
