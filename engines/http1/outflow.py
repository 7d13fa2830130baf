"""A large body on its way out: sent in pieces, the next one only when the last has gone and others have had their turn.

What a connection holds of it at a time is one piece, however slowly the upstream reads.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, Transport

PIECE = 1 << 18
"""Bytes; a body that is no longer is sent with its head. 3.5 MB put together with its head and sent at once take 2 ms."""


class Outflow:
    """What is left of one call's body."""

    __slots__ = ("_due", "_held_back", "_loop", "_rest", "_transport")

    def __init__(self, loop: AbstractEventLoop, transport: Transport, body: bytes) -> None:
        self._loop = loop
        self._transport = transport
        self._rest = memoryview(body)
        self._held_back = self._due = False

    @property
    def left(self) -> int:
        """Bytes that the transport has not been given."""
        return len(self._rest)

    def pour(self) -> None:
        """Send the next piece, unless the transport is full."""
        self._due = False
        if self._held_back or not self._rest:
            return
        piece, self._rest = self._rest[:PIECE], self._rest[PIECE:]
        self._transport.write(piece)
        self._go_on()

    def hold_back(self) -> None:
        """The transport is full."""
        self._held_back = True

    def let_go(self) -> None:
        """The transport takes more."""
        self._held_back = False
        self._go_on()

    def stop(self) -> bool:
        """Send no more of it; whether any was left."""
        left = bool(self._rest)
        self._rest = self._rest[:0]
        return left

    def _go_on(self) -> None:
        if self._rest and not self._held_back and not self._due:
            self._due = True
            self._loop.call_soon(self.pour)
