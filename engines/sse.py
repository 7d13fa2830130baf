"""Bytes of an event stream in, events out: sans-I/O, whatever the boundaries, with LF, CRLF or CR.

Holds at most one event, which is at most 8 MiB; a longer one raises Garbled. An event that its end cut short is handed
out by `rest`.
"""

from __future__ import annotations

from engines.errors import Garbled

MAX_EVENT = 8 << 20


class Events:
    """The state of one stream; events without data (comments, keep-alives) are left out."""

    __slots__ = ("_buffer", "_held")

    def __init__(self) -> None:
        self._buffer = bytearray()
        """What came of an event that is not whole yet; looked at once, however many pieces it comes in."""
        self._held = b""
        """A CR at the very end waits for what follows it."""

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        """(name, data) of each event that is whole by now; the name is "" where none is given."""
        if self._held or b"\r" in data:
            data = self._held + data
            self._held = b"\r" if data.endswith(b"\r") else b""
            data = data[: len(data) - len(self._held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if self._buffer:
            ends = b"\n\n" in data or (data.startswith(b"\n") and self._buffer.endswith(b"\n"))
            self._buffer += data
            if not ends:
                data = b""
            else:
                data = bytes(self._buffer)
                self._buffer.clear()
        elif len(data) < MAX_EVENT and data.endswith(b"\n\n") and data.count(b"\n\n") == 1:
            # One whole event, as a paced stream brings them.
            event = _event(data[:-2])
            return [] if event is None else [event]
        found: list[tuple[str, bytes]] = []
        if data:
            *whole, rest = data.split(b"\n\n")
            if rest:
                self._buffer += rest
            for each in whole:
                if len(each) > MAX_EVENT:
                    raise Garbled("an event is over 8 MiB")
                if (event := _event(each)) is not None:
                    found.append(event)
        if len(self._buffer) > MAX_EVENT:
            raise Garbled("an event is over 8 MiB")
        return found

    def rest(self) -> list[tuple[str, bytes]]:
        """What the end of the stream cut short: some leave out the last blank line."""
        found = _event(bytes(self._buffer).strip(b"\n"))
        self._buffer.clear()
        return [] if found is None else [found]


def _event(block: bytes) -> tuple[str, bytes] | None:
    if b"\n" not in block and block.startswith(b"data: "):
        return "", block[6:]
    if block.startswith(b"event: ") and block.count(b"\n") == 1:
        # Most dialects that name their events write them in these two lines.
        line, _, data = block.partition(b"\n")
        if data.startswith(b"data: "):
            return line[7:].decode("latin-1"), data[6:]
    name, data = "", []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode("latin-1")
    return (name, b"\n".join(data)) if data else None
