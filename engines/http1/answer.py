"""One answer as it arrives: the connection fills it, one caller reads it or has it pumped.

A pumped piece goes to its taker inside the callback that read it from the socket. An answer outlives
its connection's interest in it: a connection that is reused never touches an earlier answer again.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, Future
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from engines.errors import EngineError, TimedOut
from engines.http1.fields import NO_FIELDS

if TYPE_CHECKING:
    from engines.http1.connection import Connection

READ_AHEAD = 1 << 16
"""Bytes held for a slow reader before the upstream is made to wait; one more read may come on top."""
_ERROR_BODY = 1 << 16
_PARTING_BYTES = 1 << 12
_PARTING_SECONDS = 1.0
"""How much more may come, and how long, of an answer whose caller has all that matters."""


class Answer:
    """The port's OpenResponse; `whole` answers wake their caller once, at their end."""

    __slots__ = (
        "_connection",
        "_loop",
        "_parted_size",
        "_taken",
        "began",
        "done",
        "error",
        "headers",
        "heard",
        "held",
        "parted_at",
        "parts",
        "paused",
        "size",
        "status",
        "taker",
        "waiter",
        "whole",
    )

    def __init__(self, loop: AbstractEventLoop, connection: Connection, *, whole: bool) -> None:
        self._loop = loop
        self._connection: Connection | None = connection
        self.whole = whole
        self.status = 0
        """0 until the head is there."""
        self.headers: Mapping[str, str] = NO_FIELDS
        """Names in lower case, the first value of each."""
        self.parts: list[bytes] = []
        self.held = 0
        """Bytes in `parts`."""
        self.size = 0
        """Bytes of the body so far."""
        self.done = False
        self.error: EngineError | None = None
        self.paused = False
        self.parted_at = 0.0
        """When the caller let go; 0 until then."""
        self._parted_size = 0
        self.taker: Callable[[bytes], bool] | None = None
        """Gets each piece in the callback that read it; None while nobody pumps or a piece is held."""
        self._taken = False
        self.began = self.heard = loop.time()
        self.waiter: Future[None] | None = None

    def wait(self) -> Future[None]:
        """What wakes the caller: the head, a piece, the end (of a whole answer only the end) or a failure."""
        self.waiter = waiter = self._loop.create_future()
        return waiter

    def wake(self) -> None:
        """Let the caller go on."""
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def add(self, parts: list[bytes]) -> None:
        """Hold what came of the body."""
        size = len(parts[0]) if len(parts) == 1 else sum(map(len, parts))
        self.parts += parts
        self.held += size
        self.size += size

    def arrived(self) -> None:
        """Something came: pump it on, or wake the one who waits for it."""
        taker = self.taker
        if taker is None:
            self.wake()
        elif self.parts:
            try:
                if not taker(self.take()):
                    self.stop()
            except Exception as exc:
                self.stop(exc)

    def stop(self, error: Exception | None = None) -> None:
        """The taker wants no more for now, or failed."""
        self.taker = None
        if error is None:
            self._taken = True
            self.wake()
            return
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(error)

    def fail(self, error: EngineError) -> None:
        """Nothing more will come; what has come may still be read."""
        self.error = error
        self._connection = None
        self.wake()

    def finish(self) -> None:
        """The body is complete."""
        self.done = True
        self._connection = None
        if self.taker is not None:
            self.arrived()
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def take(self) -> bytes:
        """Everything that is held."""
        parts = self.parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self.parts = []
        self.held = 0
        if self.paused and self._connection is not None:
            self._connection.resume(self)
        return data

    async def read(self) -> bytes:
        """The next piece as it arrived, b"" at a proper end; raises EngineError."""
        while not self.parts:
            if self.error is not None:
                raise self.error
            if self.done:
                return b""
            # A reader that was away for a while has not waited for the upstream.
            self.heard = self._loop.time()
            await self.wait()
        return self.take()

    async def pump(self, take: Callable[[bytes], bool]) -> bool:
        """Hand each piece to `take` as it arrives until that says False; True at a proper end of the body."""
        while True:
            if self.parts:
                if not take(self.take()):
                    return False
            elif self.error is not None:
                raise self.error
            elif self.done:
                return True
            else:
                self.heard = self._loop.time()
                self.taker, self._taken = take, False
                try:
                    await self.wait()
                finally:
                    self.taker = None
                if self._taken:
                    return False

    async def rest(self) -> bytes:
        """All that is left, capped; for error bodies."""
        data = b""
        while len(data) < _ERROR_BODY and (piece := await self.read()):
            data += piece
        return data

    def let_go(self) -> None:
        """What matters was read: the connection is kept where the body ends at once, and dropped otherwise."""
        if self._connection is None:
            return
        self.parted_at = self._loop.time()
        self._parted_size = self.size
        self.take()

    def close(self) -> None:
        """Drop the connection unless the body was read to its end; may be called twice."""
        if self.parted_at:
            return
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()

    def overstays(self) -> bool:
        """Whether more came than an end, after the caller had let go."""
        self.parts.clear()
        return self.size - self._parted_size > _PARTING_BYTES

    def overdue(self, now: float, first_byte: float, between: float, total: float) -> TimedOut | None:
        """Which limit this answer has passed, if any; only the upstream's own silence counts."""
        if now - self.began > total:
            return TimedOut("total")
        if self.parted_at:
            return TimedOut("parting") if now - self.parted_at > _PARTING_SECONDS else None
        if self.waiter is None or self.paused:
            return None
        # Engines send a stream's head at once and its first byte when a place is free: both are "first byte".
        if now - self.heard > (between if self.size else first_byte):
            return TimedOut("silence" if self.size else "first byte")
        return None
