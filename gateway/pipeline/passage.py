"""A stream's way from the upstream to its client: read, metered, passed on, in one synchronous step a piece.

No task wakes up and nothing is awaited for a piece; what the client cannot take yet stays with the upstream. Tokens
are noted before the client gets them, so that no kill leaves a delivered token unknown.
"""

from __future__ import annotations

from engines.adapter import StreamReader
from gateway import crashpoints
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.line import Line
from gateway.pipeline.meter import Meter
from gateway.pipeline.ports import Outlet


class Passage:
    """One stream under way."""

    __slots__ = ("_outlet", "_reader", "meter")

    def __init__(self, line: Line, exchange: Exchange, reader: StreamReader, outlet: Outlet) -> None:
        self._reader = reader
        self._outlet = outlet
        self.meter = Meter(line, exchange, reader)

    def take(self, data: bytes) -> bool:
        """Pass on what the upstream sent; False when it must wait: at the end, at the grant's, for the client."""
        return self.pass_on(self._reader.feed(data))

    def pass_on(self, frames: bytes) -> bool:
        """The same for frames that were read already."""
        reader = self._reader
        self.meter.read()
        if not frames:
            return not (reader.done or reader.exhausted)
        open_ = self._outlet.write(frames)
        crashpoints.reach("mid_stream")
        return open_ and not (reader.done or reader.exhausted)
