"""What did it cost: exactly once, however the request ends. Synchronous, so that no cancellation can fall into it.

The settlement is in the spool before the client sees the end of its answer; the counters are corrected behind it.
"""

from __future__ import annotations

from typing import Any, cast

from engines.messages import Count
from engines.pieces import first_text, whole_pieces
from gateway import crashpoints
from gateway.pipeline.attempts import CACHED, attempt_record, borne
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.line import Line
from gateway.pipeline.weighing import estimated_prompt
from gateway.spool.records import Settlement
from policies.caching import HIT
from policies.catalog import EntityKind, Price
from policies.doubts import FEW, Doubt, doubt, far_more, many
from policies.recount import least_tokens
from policies.usage import Usage, UsageSource, inclusive

_NOTHING = Usage()
_NO_PRICE = Price(id="")
_UNSEEN = frozenset(
    {
        "audio",
        "best_of",
        "include_reasoning",
        "modalities",
        "output_config",
        "prediction",
        "reasoning",
        "reasoning_effort",
        "thinking",
        "web_search_options",
    }
)
"""What asks for output that is paid for and may not be shown, nor be told apart."""

_OUT_OF_TIME = ("upstream_timeout", "deadline_exceeded")
"""What a call that ran out of time ends with, before its first byte and after it."""


def settle(line: Line, exchange: Exchange, status: str, *, error_code: str | None = None) -> None:
    """Settle the admitted request unless it is settled: `ok`, `cut`, `error` or `interrupted`."""
    reservation = exchange.reservation
    if exchange.settled or reservation is None:
        return
    exchange.settled = True
    usage = _usage(exchange)
    if status == "ok":
        _doubt(exchange)
    spool = line.spool
    number = spool.numbered + 1
    now_ns = line.monotonic_ns()
    end = settlement(line, exchange, status, error_code=error_code, usage=usage, number=number, now_ns=now_ns)
    spool.append(end)
    spool.numbered = number
    if exchange.slot >= 0:
        line.spool.running.end(exchange.slot)
    if exchange.lease is not None:
        fault = status == "error" and error_code is not None and error_code.startswith("upstream")
        exchange.lease.end(error_code if fault else None, tokens=usage.total_tokens)
    crashpoints.reach("after_settle")
    last = end.last
    if exchange.attempts:
        prompt, completion, cost = borne((*exchange.attempts, *(() if last is None else (last,))))
    else:
        cost = 0 if last is None else last.cost_nano_usd
        prompt = usage.fresh_input + usage.cache_read + usage.cache_write
        completion = usage.output + usage.reasoning
    line.reservations.settle(
        reservation,
        prompt_tokens=prompt,
        completion_tokens=completion,
        cost_nano_usd=cost,
        number=number,
    )
    line.observer.settled(exchange, status, usage, cost, now_ns - exchange.received_ns)


def settlement(
    line: Line,
    exchange: Exchange,
    status: str,
    *,
    error_code: str | None = None,
    usage: Usage | None = None,
    number: int = 0,
    now_ns: int = 0,
) -> Settlement:
    """How the request ends, if it ends now."""
    now_ns = now_ns or line.monotonic_ns()
    ended_ms = line.wall_ms()
    last = None
    hit = exchange.cache == HIT
    if exchange.entity is not None and (exchange.dispatched or hit):
        last = attempt_record(
            line,
            exchange,
            exchange.entity,
            _usage(exchange) if usage is None else usage,
            outcome=CACHED if hit else "timeout" if error_code in _OUT_OF_TIME else status,
            error_code=error_code,
            now=now_ns,
            now_ms=ended_ms,
        )
    received, first = exchange.received_ns, exchange.first_byte_ns
    return Settlement(
        request_id=exchange.id,
        ended_at_ms=ended_ms,
        status=status,
        http_status=exchange.http_status,
        error_code=error_code,
        finish_reason=exchange.finish_reason,
        stopped_by=exchange.stopped_by,
        first_byte_us=None if first is None else (first - received) // 1000,
        duration_us=(now_ns - received) // 1000,
        queue_us=exchange.queue_ns // 1000,
        cache_hit=hit,
        last=last,
        number=number,
    )


def _doubt(exchange: Exchange) -> None:
    """Mark the last attempt where its upstream's count cannot be true of what was sent and seen."""
    count, reader, request = exchange.count, exchange.reader, exchange.request
    if reader is not None and reader.distrusted:
        exchange.doubt = Doubt.IMPOSSIBLE
    elif count is not None and exchange.source is UsageSource.REPORTED:
        exchange.doubt = doubt(
            prompt=count.prompt,
            completion=count.completion,
            reasoning=count.reasoning,
            sent_bytes=len(exchange.received) + request.text_bytes + request.token_ids,
            messages=request.messages,
            pieces=0 if reader is None else reader.counted,
            estimated=reader is not None and reader.estimates,
            answer_bytes=len(exchange.answer) if reader is None else reader.said,
        )
        if exchange.doubt is None and count.completion - count.reasoning > FEW and _many(exchange, count):
            exchange.doubt = Doubt.MANY
    if exchange.doubt is not None:
        said = exchange.doubt.said
        exchange.why = said if exchange.why is None else f"{exchange.why}; {said}"


def _many(exchange: Exchange, count: Count) -> bool:
    """Whether far more output is told than the answer's text can be; read only where there is reason to look."""
    told, reader, request = count.completion - count.reasoning, exchange.reader, exchange.request
    if reader is None:
        seen = least_tokens(first_text(exchange.answer))
    else:
        seen = reader.said / 4.8 if reader.estimates else reader.counted
    if not far_more(told, seen) or exchange.finish_reason == "tool_calls":
        return False
    if (
        not _UNSEEN.isdisjoint(request.body)
        or _hosted(request.body)
        or (reader is not None and request.n > 1)
    ):
        return False
    pieces = whole_pieces(exchange.answer) if reader is None else reader.pieces()
    if pieces is None:
        return False
    local = exchange.entity is not None and exchange.entity.kind is EntityKind.LOCAL
    return many(told, pieces.texts, share=pieces.share, local=local)


def _hosted(body: dict[str, Any]) -> bool:
    """Whether tools are asked for that run at the provider: their calls need not be shown."""
    tools = body.get("tools")
    return isinstance(tools, list) and any(
        isinstance(tool, dict) and tool.get("type", "function") not in ("function", "custom")
        for tool in cast("list[Any]", tools)
    )


def _usage(exchange: Exchange) -> Usage:
    """The present attempt's tokens in disjoint classes, from the best count there is."""
    count = exchange.count
    if count is None:
        if not exchange.counted:
            return _NOTHING
        # Nobody told what the input came to; it is not free for that.
        count = Count(estimated_prompt(exchange.request, exchange.endpoint), exchange.counted)
    return inclusive(
        count.prompt,
        count.completion,
        cache_read=count.cached,
        cache_write=count.cache_write,
        reasoning=count.reasoning,
        source=exchange.source,
    )
