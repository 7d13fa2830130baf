"""A call that is kept with what was asked and answered: a tap beside its way, for endpoints that ask for it.

Whatever becomes of the tap, the call goes its way; for other endpoints nothing is made and nothing is asked.
"""

from __future__ import annotations

from gateway.pipeline.exchange import Exchange
from gateway.pipeline.line import Line, Tap
from gateway.pipeline.ports import Outlet


def keeping(line: Line, exchange: Exchange) -> Tap | None:
    """The tap of an admitted call, None where it is not kept."""
    if exchange.endpoint.payloads is None or line.payloads is None:
        return None
    return line.payloads.begin(exchange)


def tapped(outlet: Outlet, tap: Tap) -> Outlet:
    """The same way to the client, heard along."""
    return _Tapped(outlet, tap)


class _Tapped:
    __slots__ = ("_outlet", "_tap")

    def __init__(self, outlet: Outlet, tap: Tap) -> None:
        self._outlet = outlet
        self._tap = tap

    def write(self, frames: bytes) -> bool:
        self._tap.take(frames)
        return self._outlet.write(frames)

    async def ready(self) -> None:
        await self._outlet.ready()
