"""A stream's way from the upstream to its client: read, metered, passed on, in one synchronous step a piece.

No task wakes up and nothing is awaited for a piece; what the client cannot take yet stays with the upstream. Tokens
are noted before the client gets them, so that no kill leaves a delivered token unknown, and the piece that ends an
answer waits for the settlement.
"""

from __future__ import annotations

from engines.adapter import StreamReader
from engines.transport import OpenResponse
from gateway import crashpoints
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.line import Line
from gateway.pipeline.meter import Meter
from gateway.pipeline.ports import Outlet


class Passage:
    """One stream under way."""

    __slots__ = ("_feed", "_reader", "_write", "held", "meter")

    def __init__(self, line: Line, exchange: Exchange, reader: StreamReader, outlet: Outlet) -> None:
        self._reader = reader
        # What a piece needs is at hand: it finds nothing in the processor's caches.
        self._feed = reader.feed
        self._write = outlet.write
        self.meter = Meter(line, exchange, reader)
        self.held = b""
        """The last frames, for the client once the settlement is on record."""

    async def pump(self, opened: OpenResponse) -> bool:
        """Let the upstream's pieces through until one must wait; True at the end of what it sends. Raises EngineError."""
        try:
            return await opened.pump(self.take)
        finally:
            # The end was taken over before it was held.
            if not self._reader.done:
                self.meter.take_over()

    def take(self, data: bytes) -> bool:
        """Pass on what the upstream sent; False when it must wait: at the end, at the grant's, for the client."""
        frames = self._feed(data)
        reader, meter = self._reader, self.meter
        if reader.steady:
            # Nearly every piece: one more token, noted by a store.
            running = reader.running
            if running < meter.look_at and meter.clock() < meter.look_ns:
                meter.words[meter.noted_at] = running
                open_ = self._write(frames)
                crashpoints.reach("mid_stream")
                return open_
        return self.pass_on(frames)

    def pass_on(self, frames: bytes) -> bool:
        """The same for frames that were read already."""
        reader = self._reader
        self.meter.read()
        if reader.done:
            self.held = frames
            return False
        if not frames:
            return not reader.exhausted
        open_ = self._write(frames)
        crashpoints.reach("mid_stream")
        return open_ and not reader.exhausted
