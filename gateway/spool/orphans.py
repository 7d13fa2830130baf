"""Ends the requests of a worker that died in the middle of them.

With a byte from upstream: charged for what was noted before each piece was passed on (after a power cut, for what the
last checkpoint knew), and flagged `estimated`. With none: one row, charged nothing.
"""

from __future__ import annotations

import logging

from msgspec.structs import replace

from gateway.spool.books import AttemptRow, Posting
from gateway.spool.joining import Entry, attempt_row, request_row
from gateway.spool.records import Attempt, Intent, Progress, frame
from gateway.spool.running import Seen
from policies.catalog import Price
from policies.usage import Usage, UsageSource, cost_nano_usd

logger = logging.getLogger(__name__)

INTERRUPTED = "interrupted"


def interrupted(entry: Entry, worker_id: bytes, seen: Seen | None = None) -> Posting:
    """The rows of a request whose worker is dead; `seen` is what it noted after the last checkpoint."""
    intent = entry.intent
    made, progress = _made(entry, seen)
    end = len(made) - 1
    rows = [
        attempt_row(intent, each, borne=each.outcome != INTERRUPTED or number == end)
        for number, each in enumerate(made)
    ]
    ended_ms = _last_seen_ms(intent, made, progress)
    request = request_row(
        entry,
        rows,
        worker_id,
        ended_at_ms=ended_ms,
        status=INTERRUPTED,
        http_status=None,
        error_code="worker_died",
        finish_reason=None,
        stopped_by=None,
        first_byte_us=_first_byte(rows),
        duration_us=max(0, ended_ms - intent.admitted_at_ms) * 1000,
        queue_us=0,
        cache_hit=False,
    )
    records = (intent, *(entry.attempts or ()), *(() if progress is None else (progress,)))
    return Posting(request, rows, entry.place, records, entry.charges)


def notes(entry: Entry, worker_id: bytes, seen: Seen | None = None) -> bytes:
    """Of a request that another process is to begin again: the records that it goes on from, frame after frame.

    The admission holds: nothing is charged twice for what a kill cut short.
    """
    intent = entry.intent
    kept = replace(
        intent,
        granted_output_tokens=entry.granted,
        charges=entry.charges,
        number=0,
        admitted_by=intent.admitted_by or worker_id,
    )
    return b"".join(frame(each) for each in (kept, *_made(entry, seen)[0]))


def _made(entry: Entry, seen: Seen | None) -> tuple[list[Attempt], Progress | None]:
    """The calls upstream that were made, the one under way included, and the last that is known of that one."""
    progress = entry.progress
    if progress is not None and seen is not None and seen.attempt == progress.attempt:
        progress = replace(
            progress,
            prompt_tokens=max(progress.prompt_tokens, seen.prompt_tokens),
            completion_tokens=max(progress.completion_tokens, seen.completion_tokens),
            cache_read_tokens=max(progress.cache_read_tokens, seen.cache_read_tokens),
        )
    made = list(entry.attempts or ())
    if progress is not None and all(each.attempt != progress.attempt for each in made):
        made.append(_cut(entry.intent, progress, entry.began_ms))
    return made, progress


def _cut(intent: Intent, progress: Progress, began_ms: int) -> Attempt:
    """The attempt that was under way, as the last checkpoint saw it."""
    name, price = _price(intent, progress.entity_id)
    usage = Usage()
    if progress.first_byte:
        prompt = progress.prompt_tokens or intent.estimated_prompt_tokens
        read = min(progress.cache_read_tokens, prompt)
        usage = Usage(prompt - read, read, 0, progress.completion_tokens, 0, UsageSource.ESTIMATED)
    took_us = max(0, progress.at_ms - began_ms) * 1000
    return Attempt(
        intent.request_id,
        progress.attempt,
        progress.entity_id,
        name,
        "",
        began_ms,
        None,
        took_us,
        INTERRUPTED,
        None,
        "worker_died",
        usage.fresh_input,
        usage.cache_read,
        0,
        usage.output,
        0,
        usage.source.value,
        price.id,
        cost_nano_usd(usage, price, took_us) if progress.first_byte else 0,
        "the worker died",
    )


def _price(intent: Intent, entity_id: str) -> tuple[str, Price]:
    for each in intent.prices:
        if each.entity_id == entity_id:
            return each.entity_name, Price(
                each.price_id, each.input, each.cache_read, each.cache_write, each.output, each.reasoning,
                each.per_request, each.per_gpu_second,
            )  # fmt: skip
    logger.error(
        "request %s: its intent has no price of %s; charged nothing", intent.request_id.hex(), entity_id
    )
    return entity_id, Price("")


def _last_seen_ms(intent: Intent, made: list[Attempt], progress: Progress | None) -> int:
    ends = [each.started_at_ms + each.duration_us // 1000 for each in made if each.outcome != INTERRUPTED]
    return max([intent.admitted_at_ms, *ends, *(() if progress is None else (progress.at_ms,))])


def _first_byte(rows: list[AttemptRow]) -> int | None:
    return next((row.first_byte_us for row in reversed(rows) if row.first_byte_us is not None), None)
