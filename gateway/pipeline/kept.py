"""A call whose caller outlives the process that carries it: begun again after a kill, and charged once.

Its answer is put into safety, with what it cost, before it is settled; so a kill at any moment leaves either an answer
that is in the books, or a call that another process begins again under the same request and the same admission.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from gateway.errors import GatewayError, LimitDetail
from gateway.ids import text
from gateway.pipeline.admit import admit
from gateway.pipeline.attempts import borne
from gateway.pipeline.authorize import authorize
from gateway.pipeline.dispatch import call_plain
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.guard import guard
from gateway.pipeline.keeping import keeping
from gateway.pipeline.line import Line
from gateway.pipeline.recall import recalled_or_called
from gateway.pipeline.route import choose_route
from gateway.pipeline.settle import settle, settlement
from gateway.spool.records import Attempt, Intent, Settlement

Outcome = bytes | GatewayError
Keep = Callable[[Outcome, Settlement], Awaitable[bool]]
"""Puts an outcome into safety; False where nobody waits for it any more."""
SHUTDOWN = "shutdown"
"""What `stopped_by` says of a call that is left to another process."""


class Begun:
    """A call that a process which is dead had begun; also its reservation, which outlives it."""

    def __init__(self, intent: Intent, attempts: list[Attempt]) -> None:
        self.intent = intent
        self.attempts = attempts
        self.request_id = text(intent.request_id)
        self.admitted_at_ms = intent.admitted_at_ms
        self.sequence = intent.sequence
        self.granted_output = intent.granted_output_tokens
        self.group_id = intent.group_id
        self.degraded = intent.degraded
        self.charges = intent.charges
        self.settled = False
        self.seen: list[int] = []
        self.fields = b""
        self.refusal: LimitDetail | None = None


async def complete_kept(line: Line, exchange: Exchange, keep: Keep, begun: Begun | None = None) -> Outcome:
    """Carry a plain call along the line; its outcome, once it is kept and settled. Raises what refuses it before."""
    if begun is None:
        authorize(exchange)
        await admit(line, exchange)
    else:
        try:
            authorize(exchange)
        except GatewayError as exc:
            end_begun(line, begun, "error", error_code=exc.code)
            raise
        _take_over(line, exchange, begun)
    tap = keeping(line, exchange)
    try:
        outcome = await _outcome(line, exchange)
        if tap is not None and isinstance(outcome, bytes):
            tap.take(outcome)
        status, code = ("error", outcome.code) if isinstance(outcome, GatewayError) else ("ok", None)
        if not await keep(outcome, settlement(line, exchange, status, error_code=code)):
            raise CancelledError
        settle(line, exchange, status, error_code=code)
        return outcome
    except CancelledError:
        if exchange.stopped_by == SHUTDOWN:
            # Left open, as a kill would leave it: the drainer hands it on.
            exchange.settled = True
        exchange.stopped_by = exchange.stopped_by or "client"
        left = "client_left" if exchange.stopped_by == "client" else exchange.stopped_by
        settle(line, exchange, "cut", error_code=left)
        raise
    finally:
        settle(line, exchange, "error", error_code="internal_error")
        if tap is not None:
            tap.end()


def end_begun(
    line: Line, begun: Begun, status: str, *, error_code: str, stopped_by: str | None = None
) -> None:
    """Close the books on a call that is not begun again; its caller bears what was told of tries, and nothing that we cut."""
    _append(line, begun)
    number = line.spool.numbered + 1
    ended_ms = line.wall_ms()
    line.spool.append(
        Settlement(
            request_id=begun.intent.request_id,
            ended_at_ms=ended_ms,
            status=status,
            http_status=0,
            error_code=error_code,
            finish_reason=None,
            stopped_by=stopped_by,
            first_byte_us=None,
            duration_us=max(0, ended_ms - begun.admitted_at_ms) * 1000,
            queue_us=0,
            cache_hit=False,
            last=None,
            number=number,
        )
    )
    line.spool.numbered = number
    prompt, completion, cost = borne(begun.attempts)
    line.reservations.settle(
        begun, prompt_tokens=prompt, completion_tokens=completion, cost_nano_usd=cost, number=number
    )


def _take_over(line: Line, exchange: Exchange, begun: Begun) -> None:
    """Go on with a call: from here on it is in this process's spool, with all that was tried before."""
    _append(line, begun)
    exchange.reservation = begun
    exchange.attempts = list(begun.attempts)
    exchange.attempt = max((each.attempt for each in begun.attempts), default=0)
    line.observer.admitted(exchange)


def _append(line: Line, begun: Begun) -> None:
    number = line.spool.numbered + 1
    line.spool.append(replace(begun.intent, number=number))
    line.spool.numbered = number
    for each in begun.attempts:
        line.spool.append(each)


async def _outcome(line: Line, exchange: Exchange) -> Outcome:
    try:
        guard(exchange)
        call = call_plain if exchange.endpoint.cache is None else recalled_or_called
        body = await call(line, exchange, choose_route(line, exchange))
        exchange.http_status = 200
        return body
    except GatewayError as exc:
        exchange.http_status = exc.status
        return exc
