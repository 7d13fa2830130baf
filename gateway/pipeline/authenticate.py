"""Who is asking: the credential becomes a caller; a known key costs a dictionary look-up."""

from __future__ import annotations

from gateway.errors import Forbidden
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.line import Line


async def authenticate(line: Line, exchange: Exchange, address: str | None = None) -> None:
    """Set `snapshot` and `caller`; raises Unauthenticated, Forbidden for a key of another plane, or Unavailable.

    `address` is where the call came from: what fails there too often raises TooManyFailures.
    """
    exchange.snapshot = snapshot = line.catalog.snapshot
    caller = line.keys.known(exchange.credential)
    if caller is None:
        caller = await line.keys.verify(exchange.credential, snapshot, address)
    if "data" not in caller.planes:
        raise Forbidden("This API key may not call models: its scope lacks the data plane.")
    exchange.caller = caller
