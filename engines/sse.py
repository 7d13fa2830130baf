"""Bytes of an event stream in, events out: sans-I/O, whatever the boundaries, with LF, CRLF or CR.

Holds at most one event, which is at most 8 MiB; a longer one raises Garbled. An event that its end cut short is handed
out by `rest`.
"""

from __future__ import annotations

from engines.errors import Garbled

MAX_EVENT = 8 << 20


class Events:
    """The state of one stream; events without data (comments, keep-alives) are left out."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[tuple[str, bytes]]:
        """(name, data) of each event that is whole by now; the name is "" where none is given."""
        if b"\r" in data or self._buffer[-1:] == b"\r":
            data = self._buffer + data
            held = b"\r" if data.endswith(b"\r") else b""
            data = data[: len(data) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n") + held
        elif self._buffer:
            data = self._buffer + data
        *whole, self._buffer = data.split(b"\n\n")
        if len(self._buffer) > MAX_EVENT or any(len(each) > MAX_EVENT for each in whole):
            raise Garbled("an event is over 8 MiB")
        return [found for each in whole if (found := _event(each)) is not None]

    def rest(self) -> list[tuple[str, bytes]]:
        """What the end of the stream cut short: some leave out the last blank line."""
        rest, self._buffer = self._buffer.strip(b"\r\n"), b""
        found = _event(rest)
        return [] if found is None else [found]


def _event(block: bytes) -> tuple[str, bytes] | None:
    if block.startswith(b"data: ") and b"\n" not in block:
        return "", block[6:]
    name, data = "", []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode("latin-1")
    return (name, b"\n".join(data)) if data else None
