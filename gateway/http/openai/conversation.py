"""Responses that follow another: the conversation is found before the call and the new turn is kept after it.

Only at endpoints that keep responses, and only for the principal whose they are. Whoever may not call the endpoint is refused
by the line itself, before anything is looked up.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.errors import BadRequest
from gateway.http.errors import Dialect
from gateway.http.openai.fields import flag
from gateway.http.openai.responses import read_response
from gateway.http.plane import MAX_BODY, Api
from gateway.pipeline.completion import complete, stream
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.line import Line
from gateway.pipeline.ports import Outlet
from gateway.pipeline.turns import Begun, Owner, Turn
from policies.catalog import Endpoint
from policies.permissions import Level, may

_HOUR_MS = 3_600_000
_ENDED = (b"event: response.completed\n", b"event: response.incomplete\n")
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def responses_api(name: str, dialect: Dialect) -> Api:
    """A route of Responses, under the name that the ledger has for it."""
    return Api(
        name,
        dialect,
        lambda body, endpoint: read_response(body, model=endpoint),
        carry=_carry,
        pour=_pour,
        before=continued,
    )


async def continued(line: Line, exchange: Exchange, body: dict[str, Any]) -> dict[str, Any]:
    """The body with the conversation that it follows; notes on the exchange what is to be kept. Raises GatewayError."""
    previous = body.get("previous_response_id")
    wanted = None if body.get("store") is None else flag(body, "store")
    if previous is None and wanted is False:
        return body
    named = body.get("model")
    endpoint = exchange.snapshot.endpoints.get(named) if type(named) is str else None
    if endpoint is None or not may(exchange.snapshot, exchange.caller, Level.CAN_QUERY, endpoint):
        return body
    hours = endpoint.rules.keep_responses_hours
    if not hours or line.turns is None:
        _require_nothing_kept(endpoint, previous, wanted)
        return body
    if previous is not None and type(previous) is not str:
        raise BadRequest("'previous_response_id' must be a text.", param="previous_response_id")
    asked = _items(body.get("input"))
    if asked is None:
        # What is wrong with it is said where it is read.
        return body
    exchange.turn = Begun(previous, asked, wanted is not False)
    if previous is None:
        return body
    owner = Owner(exchange.caller.principal.id, endpoint.id, line.wall_ms() - hours * _HOUR_MS)
    items: list[Any] = []
    for turn in await line.turns.conversation(owner, previous):
        items += turn.asked
        items += turn.response["output"]
    whole = [*items, *asked]
    if items and len(msgspec.json.encode(whole)) > MAX_BODY:
        raise BadRequest(
            f"The conversation is over {MAX_BODY >> 20} MiB by now; begin a new one.",
            param="previous_response_id",
            code="context_length_exceeded",
        )
    return {**body, "input": whole}


def _require_nothing_kept(endpoint: Endpoint, previous: Any, wanted: bool | None) -> None:
    if previous is not None:
        raise BadRequest(
            f"Endpoint {endpoint.name!r} keeps no responses, so 'previous_response_id' leads nowhere:"
            " send the whole conversation as 'input'.",
            param="previous_response_id",
            code="unsupported_field",
        )
    if wanted:
        raise BadRequest(
            f"Endpoint {endpoint.name!r} keeps no responses: send 'store': false, or leave it out.",
            param="store",
            code="unsupported_field",
        )


def _items(given: Any) -> list[Any] | None:
    if type(given) is str:
        return [{"role": "user", "content": given}]
    return given if type(given) is list else None


async def _carry(line: Line, exchange: Exchange) -> bytes:
    _mark(exchange)
    body = await complete(line, exchange)
    if exchange.turn is not None and exchange.turn.kept:
        _keep(line, exchange, _decode(body))
    return body


async def _pour(line: Line, exchange: Exchange, outlet: Outlet) -> None:
    _mark(exchange)
    if exchange.turn is None or not exchange.turn.kept:
        await stream(line, exchange, outlet)
        return
    last = _Last(outlet)
    await stream(line, exchange, last)
    if (end := end_in(last.frames)) is not None:
        _keep(line, exchange, _decode(end)["response"])


def _mark(exchange: Exchange) -> None:
    """Have the answer of a call that is kept say so, under an id that tells its moment."""
    if exchange.turn is not None and exchange.turn.kept:
        exchange.request.body.update(id=f"resp_{exchange.id.hex()}", store=True)


def _keep(line: Line, exchange: Exchange, response: dict[str, Any]) -> None:
    begun = exchange.turn
    assert begun is not None
    assert line.turns is not None
    if response["id"] != f"resp_{exchange.id.hex()}":
        # An answer that was made for another call is that call's to keep.
        return
    line.turns.keep(
        Turn(
            id=response["id"],
            previous=begun.previous,
            principal_id=exchange.caller.principal.id,
            endpoint_id=exchange.endpoint.id,
            at_ms=line.wall_ms(),
            asked=begun.asked,
            response=response,
        )
    )


def end_in(frames: bytes) -> bytes | None:
    """The data of the event that ends an answer, where the last of these frames is that."""
    _, _, event = frames.rstrip(b"\n").rpartition(b"\n\n")
    return event.partition(b"data: ")[2] if event.startswith(_ENDED) else None


class _Last:
    """The port `Outlet` to another one; what it was given last has the stream's end in it."""

    __slots__ = ("_outlet", "frames")

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self.frames = b""

    def write(self, frames: bytes) -> bool:
        self.frames = frames
        return self._outlet.write(frames)

    async def ready(self) -> None:
        await self._outlet.ready()
