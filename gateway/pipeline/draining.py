"""Reading a stream to its end after its client has left, where the provider would bill all of it anyway.

At most so many at once: beyond that a stream is cut like any other. Whatever ends the reading, what was counted by then
is what is settled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engines.adapter import StreamReader
from engines.errors import EngineError
from engines.transport import OpenResponse
from gateway.pipeline.exchange import Exchange

if TYPE_CHECKING:
    # The meter knows the line, which knows this.
    from gateway.pipeline.meter import Meter

MOST = 32


class Drains:
    """How many streams of one worker are read on for nobody."""

    __slots__ = ("running",)

    def __init__(self) -> None:
        self.running = 0

    def room_for(self, exchange: Exchange) -> bool:
        """Whether this stream is to be read on now that its client has left."""
        entity = exchange.entity
        return (
            entity is not None
            and entity.rules.drain
            and exchange.stopped_by == "client"
            and self.running < MOST
        )

    async def drain(self, opened: OpenResponse, reader: StreamReader, meter: Meter) -> None:
        """Read on until the provider, its grant or the worker ends it."""
        self.running += 1
        try:
            while not reader.done:
                if reader.exhausted:
                    if not await meter.extend():
                        break
                    reader.feed(b"")
                elif data := await opened.read():
                    reader.feed(data)
                else:
                    reader.ended()
                    reader.feed(b"")
                meter.read()
        except EngineError as exc:
            # What it told until then counts.
            meter.broke(exc)
        finally:
            self.running -= 1
