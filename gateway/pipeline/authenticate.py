"""Who is asking: the credential becomes a caller; a known key costs a dictionary look-up."""

from __future__ import annotations

from gateway.errors import Forbidden
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.line import Line


def recognised(line: Line, exchange: Exchange) -> bool:
    """Set `snapshot`, and `caller` where the key is a known one: of nearly all calls, for which nothing is awaited.

    False where it has to be verified; raises Forbidden for a key of another plane, or Unavailable.
    """
    exchange.snapshot = line.catalog.snapshot
    caller = line.keys.known(exchange.credential)
    if caller is None:
        return False
    if "data" not in caller.planes:
        raise Forbidden(_ELSEWHERE)
    exchange.caller = caller
    return True


async def authenticate(line: Line, exchange: Exchange, address: str | None = None) -> None:
    """Set `snapshot` and `caller`; raises Unauthenticated, Forbidden for a key of another plane, or Unavailable.

    `address` is where the call came from: what fails there too often raises TooManyFailures.
    """
    if recognised(line, exchange):
        return
    caller = await line.keys.verify(exchange.credential, exchange.snapshot, address)
    if "data" not in caller.planes:
        raise Forbidden(_ELSEWHERE)
    exchange.caller = caller


_ELSEWHERE = "This API key may not call models: its scope lacks the data plane."
