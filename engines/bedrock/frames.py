"""Bytes of an AWS event stream in, events out: sans-I/O, with botocore's own decoder, which checks every checksum.

Holds at most one event, which is at most 8 MiB; a longer or a broken one raises Garbled.
"""

from __future__ import annotations

from botocore.eventstream import EventStreamBuffer, ParserError

from engines.errors import Garbled
from engines.sse import MAX_EVENT

_PRELUDE = 12


class Frames:
    """The state of one stream."""

    __slots__ = ("_buffer", "_held")

    def __init__(self) -> None:
        self._buffer = EventStreamBuffer()
        self._held = 0
        """Bytes of the event that is not whole yet."""

    def feed(self, data: bytes) -> list[tuple[str, str, bytes]]:
        """(message type, event or exception type, payload) of each event that is whole by now."""
        self._buffer.add_data(data)
        self._held += len(data)
        out: list[tuple[str, str, bytes]] = []
        try:
            for message in self._buffer:
                prelude = message.prelude
                self._held -= prelude.total_length if prelude is not None else 0
                headers = message.headers
                kind = str(headers.get(":message-type", "event"))
                name = headers.get(":event-type") or headers.get(":exception-type") or ""
                out.append((kind, str(name), message.payload))
        except (ParserError, ValueError, KeyError) as exc:
            raise Garbled("the event stream is broken") from exc
        if self._held > MAX_EVENT:
            raise Garbled("an event is over 8 MiB")
        return out

    @property
    def empty(self) -> bool:
        """Whether nothing was cut short."""
        return self._held == 0
