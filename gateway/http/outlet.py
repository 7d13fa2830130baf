"""The two ways of a stream to its client: straight into the socket's transport, or by ASGI.

The straight one adds nothing to the event loop: a piece is written in the callback that brought it, and the client's
connection says when it has enough. ASGI serves where another server, or a request sent ahead of its turn, needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from gateway.http.answering import (
    answer_chunked,
    apart,
    begin_chunked,
    begin_unframed,
    cycle_of,
    end_chunked,
    end_unframed,
)

if TYPE_CHECKING:
    from litestar.types import Scope, Send

Head = Callable[[], bytes]
"""The lines of the answer's head, asked for when its first frame is there."""


class StraightOutlet:
    """Frames become chunks of the answer at once, but for the first: they wait for `ready`, or for the end.

    What came whole goes out with its head and its end in one write.
    """

    __slots__ = ("_cycle", "_flow", "_head", "_held", "_send", "_sent", "_write", "begun")

    def __init__(self, cycle: RequestResponseCycle, send: Send, head: Head) -> None:
        self._cycle = cycle
        self._flow = cycle.flow
        self._write = cycle.transport.write
        self._send = send
        self._head = head
        self._held = b""
        """The first frames, until they are written with the head."""
        self._sent = False
        """The head is written."""
        self.begun = False
        """Whether the answer has begun, written or about to be."""

    def write(self, frames: bytes) -> bool:
        if self._cycle.disconnected:
            # Whoever called is about to be cancelled; nobody reads this.
            self.begun = True
        elif self._sent:
            self._write(b"%x\r\n%b\r\n" % (len(frames), frames))
        else:
            self._held += frames
            self.begun = True
            return False
        return not self._flow.write_paused

    async def ready(self) -> None:
        if self._held:
            self._begin()
        if self._flow.write_paused and not self._cycle.disconnected:
            await self._flow.drain()

    async def end(self) -> None:
        """Finish the answer."""
        if self._held:
            if answer_chunked(self._cycle, self._head(), self._held):
                return
            self._begin()
        if not end_chunked(self._cycle):
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def _begin(self) -> None:
        """Write what is held behind the head."""
        held, self._held = self._held, b""
        if not self._cycle.disconnected:
            self._sent = True
            begin_chunked(self._cycle, self._head(), held)


class UnframedOutlet(StraightOutlet):
    """Frames as they are, to a client of HTTP/1.0, which knows no chunks: the connection's end is the answer's."""

    __slots__ = ()

    def write(self, frames: bytes) -> bool:
        if not self._sent or self._cycle.disconnected:
            return super().write(frames)
        self._write(frames)
        return not self._flow.write_paused

    async def end(self) -> None:
        """Finish the answer."""
        if self._held:
            self._begin()
        end_unframed(self._cycle)

    def _begin(self) -> None:
        held, self._held = self._held, b""
        if not self._cycle.disconnected:
            self._sent = True
            begin_unframed(self._cycle, self._head(), held)


class AsgiOutlet:
    """Frames wait for the next `ready`, which sends them."""

    __slots__ = ("_head", "_held", "_send", "_sent_head", "begun")

    def __init__(self, send: Send, head: Head) -> None:
        self._send = send
        self._head = head
        self._held: list[bytes] = []
        self._sent_head = False
        self.begun = False
        """Whether the answer has begun, sent or about to be."""

    def write(self, frames: bytes) -> bool:
        self.begun = True
        self._held.append(frames)
        return False

    async def ready(self) -> None:
        if self._held:
            body = b"".join(self._held)
            self._held.clear()
            if not self._sent_head:
                self._sent_head = True
                await self._send(
                    {"type": "http.response.start", "status": 200, "headers": apart(self._head())}
                )
            await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self) -> None:
        """Send what is left and finish the answer."""
        await self.ready()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def outlet(scope: Scope, send: Send, head: Head) -> StraightOutlet | AsgiOutlet:
    """The shortest way to this request's client."""
    cycle = cycle_of(scope)
    if cycle is None:
        return AsgiOutlet(send, head)
    return (UnframedOutlet if scope["http_version"] == "1.0" else StraightOutlet)(cycle, send, head)
