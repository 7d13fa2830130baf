"""The line itself: how one request walks it, plain and streamed. Newcomers start here.

    authenticate -> authorize -> admit -> guard -> route -> dispatch -> settle -> audit

A request is weighed on the way in (a reservation) and on the way out (a settlement); `settle` runs exactly once
however the request ends, and before the client sees the end of its answer. The front calls the first step before it
reads the body, and the last one when a request was refused.
"""

from __future__ import annotations

from asyncio import CancelledError

from engines.errors import EngineError, TimedOut
from gateway import crashpoints
from gateway.errors import GatewayError, UpstreamFailed, UpstreamTimeout
from gateway.pipeline.admit import admit
from gateway.pipeline.authorize import authorize
from gateway.pipeline.deadlines import PastDeadline, within
from gateway.pipeline.dispatch import call_plain, open_stream
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.guard import guard
from gateway.pipeline.keeping import keeping, tapped
from gateway.pipeline.line import Line
from gateway.pipeline.meter import take_over
from gateway.pipeline.passage import Passage
from gateway.pipeline.ports import Outlet
from gateway.pipeline.recall import Recorder, recalled_or_called, recalled_stream
from gateway.pipeline.route import choose_route
from gateway.pipeline.settle import settle


async def complete(line: Line, exchange: Exchange) -> bytes:
    """Carry one plain call along the line and give the answer's bytes; raises GatewayError."""
    authorize(exchange)
    await admit(line, exchange)
    tap = None if exchange.endpoint.payloads is None else keeping(line, exchange)
    try:
        guard(exchange)
        call = recalled_or_called if exchange.endpoint.cache or exchange.wish.only else call_plain
        body = await call(line, exchange, choose_route(line, exchange))
        exchange.http_status = 200
        settle(line, exchange, "ok")
        if tap is not None:
            tap.take(body)
        return body
    except CancelledError:
        settle(line, exchange, "cut", error_code=_who_left(exchange))
        raise
    except GatewayError as exc:
        exchange.http_status = exc.status
        settle(line, exchange, "error", error_code=exc.code)
        raise
    finally:
        if not exchange.settled:
            settle(line, exchange, "error", error_code="internal_error")
        if tap is not None:
            tap.end()


async def stream(line: Line, exchange: Exchange, outlet: Outlet) -> None:
    """Carry one streamed call along the line; its frames go to `outlet`, the last one after the settlement.

    A GatewayError before the first frame is the whole answer; after it, it is the stream's terminal error.
    """
    authorize(exchange)
    await admit(line, exchange)
    tap = None if exchange.endpoint.payloads is None else keeping(line, exchange)
    if tap is not None:
        outlet = tapped(outlet, tap)
    opened = recorder = under_way = None
    try:
        guard(exchange)
        route = choose_route(line, exchange)
        if exchange.endpoint.cache or exchange.wish.only:
            recalled = await recalled_stream(line, exchange, route)
            if recalled is not None:
                settle(line, exchange, "ok")
                outlet.write(recalled)
                return
            if exchange.storing:
                outlet = recorder = Recorder(line, exchange, outlet)
        opened, reader, frames = await open_stream(line, exchange, route)
        exchange.http_status = 200
        exchange.reader = reader
        if reader.done:
            # It came whole: nothing of it runs, so nothing is metered or noted on the way.
            take_over(exchange, reader)
        else:
            passage = Passage(line, exchange, reader, outlet)
            under_way = opened, reader, passage.meter
            passage.pass_on(frames)
            while not reader.done:
                await outlet.ready()
                if not reader.exhausted:
                    # Nearly all of a stream passes in here, one callback of the upstream's connection a piece.
                    pumped = passage.pump(opened)
                    if await (within(line, exchange, pumped) if exchange.deadline_ns else pumped):
                        reader.ended()
                        # What only the end makes sure of: a translated stream's last frames.
                        passage.take(b"")
                elif await passage.meter.extend():
                    passage.take(b"")
                else:
                    opened.close()
                    outlet.write(reader.closing_events(extra={"weighbridge": passage.meter.stopped()}))
                    settle(line, exchange, "cut", error_code="limit_reached")
                    outlet.write(reader.terminal())
                    return
            frames = passage.held
        opened.let_go()
        crashpoints.reach("after_last_byte")
        ran, under_way = under_way is not None, None
        try:
            if ran:
                await line.ends.turn()
        finally:
            # It is whole: who leaves now has got all of its words.
            settle(line, exchange, "ok")
        outlet.write(frames + reader.terminal())
        if recorder is not None:
            recorder.ended()
    except CancelledError:
        who = _who_left(exchange)
        try:
            if under_way is not None and line.drains.room_for(exchange):
                await line.drains.drain(*under_way)
        finally:
            settle(line, exchange, "cut", error_code=who)
        raise
    except EngineError as exc:
        if under_way is not None:
            under_way[2].broke(exc)
        settle(line, exchange, "error", error_code=exc.code)
        raise _mid_stream(exc) from exc
    except GatewayError as exc:
        exchange.http_status = exchange.http_status or exc.status
        settle(line, exchange, "error", error_code=exc.code)
        raise
    finally:
        if opened is not None:
            opened.close()
        settle(line, exchange, "error", error_code="internal_error")
        if tap is not None:
            tap.end()


def _who_left(exchange: Exchange) -> str:
    """Why a call was cancelled: its client went, unless somebody noted another reason."""
    exchange.stopped_by = exchange.stopped_by or "client"
    return "client_left" if exchange.stopped_by == "client" else exchange.stopped_by


def _mid_stream(exc: EngineError) -> GatewayError:
    """What the caller is told when an answer that has begun cannot go on."""
    if isinstance(exc, PastDeadline):
        return UpstreamTimeout("The call's time was over in the middle of its answer; it is not complete.")
    if isinstance(exc, TimedOut):
        return UpstreamTimeout(
            "The model's server fell silent in the middle of its answer; it is not complete."
        )
    return UpstreamFailed("The model's server failed in the middle of its answer; it is not complete.")
