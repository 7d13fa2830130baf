"""How many tokens a request's input is: along the line like a call, with nothing to answer and nothing to pay.

Whoever would answer is asked where it counts (the local engine, Anthropic); for others it is the estimate that a
reservation is made with. No attempt is put on record: nothing was generated.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import CancelledError

from engines.adapter import Call
from engines.errors import EngineError
from gateway.errors import GatewayError
from gateway.pipeline.admit import admit
from gateway.pipeline.authorize import authorize
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.guard import guard
from gateway.pipeline.line import Line
from gateway.pipeline.route import choose_route
from gateway.pipeline.settle import settle
from gateway.pipeline.weighing import estimated_prompt
from policies.catalog import ServedEntity

_SECONDS = 5.0
"""A count that takes longer is estimated."""
log = logging.getLogger(__name__)


async def count_input(line: Line, exchange: Exchange) -> int:
    """The tokens of the request's input; raises GatewayError."""
    authorize(exchange)
    await admit(line, exchange)
    try:
        guard(exchange)
        tokens = await _counted(line, exchange, choose_route(line, exchange).order[0])
        exchange.http_status = 200
        settle(line, exchange, "ok")
        return tokens
    except CancelledError:
        exchange.stopped_by = exchange.stopped_by or "client"
        left = "client_left" if exchange.stopped_by == "client" else exchange.stopped_by
        settle(line, exchange, "cut", error_code=left)
        raise
    except GatewayError as exc:
        exchange.http_status = exc.status
        settle(line, exchange, "error", error_code=exc.code)
        raise
    finally:
        settle(line, exchange, "error", error_code="internal_error")


async def _counted(line: Line, exchange: Exchange, entity: ServedEntity) -> int:
    request = exchange.request
    call = Call(
        path=request.path,
        body=request.body,
        model=entity.model,
        max_tokens=None,
        headers={"x-request-id": exchange.id_text},
        shared_headers=request.shared_headers,
    )
    try:
        addresses = line.engines.addresses(entity)
        if addresses:
            async with asyncio.timeout(_SECONDS):
                found = await line.engines.adapter(entity, addresses[0]).count(call)
            if found is not None:
                return found
    except (EngineError, TimeoutError) as exc:
        log.warning("a count of %s is estimated: %s", entity.name, exc)
    return estimated_prompt(request, exchange.endpoint)
