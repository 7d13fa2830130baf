"""uvicorn's HTTP/1.1 protocol with what a gateway needs: told of a client that left, bounded heads, deadlines.

A raw ASGI application would learn of a disconnect only by a task that waits on `receive`; here the connection calls
back, which costs nothing while nothing happens. Who sends too slowly, reads nothing, or asks
for nothing any more, is let go by one sweep a second over all connections.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

if TYPE_CHECKING:
    from litestar.types import Scope

CONNECTION = "weighbridge.connection"
"""Scope key of the connection, on which a handler leaves what to call when the client is gone."""
Headers = list[tuple[bytes, bytes]]
MAX_HEADERS = 64
MAX_HEAD_BYTES = 32 << 10
HEAD_SECONDS = 10.0
BODY_SECONDS = 30.0
BODY_BYTES_A_SECOND = 1024
STALLED_SECONDS = 30.0
"""A client that takes nothing at all of its answer for so long is given up."""


class Connection(HttpToolsProtocol):
    """One client connection."""

    on_left: Callable[[], None] | None = None
    """Called once when the connection is lost; the handler that is running sets it and clears it."""
    waiting_since: float = 0.0
    """When the present head or body began to arrive; 0 while nothing is awaited from the client."""
    idle_since: float = 0.0
    """Since when all is answered that was asked; 0 while something is not."""
    head_bytes = 0
    body_bytes = 0
    in_body = False
    head_overflow = False
    unread_since: float = 0.0
    """When the answer's unsent bytes were last seen to change; 0 while the client keeps up."""
    unread = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.waiting_since = time.monotonic()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        left, self.on_left = self.on_left, None
        if left is not None:
            left()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        cast("dict[str, Any]", self.scope)[CONNECTION] = self
        self.head_bytes = self.body_bytes = 0
        self.in_body = False
        self.idle_since = 0.0
        self.waiting_since = time.monotonic()

    def on_url(self, url: bytes) -> None:
        self._grow(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._grow(len(name) + len(value))
        if len(self.headers) >= MAX_HEADERS:
            self.head_overflow = True
        if not self.head_overflow:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self.in_body = True
        if self.head_overflow or self._ambiguous_length():
            self._refuse()
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self.body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self.waiting_since = 0.0
        if not self.transport.is_closing():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        # As uvicorn's own, but for its timer, set after each answer and taken back at the next call: 2 % of a call.
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        else:
            self.idle_since = time.monotonic()

    def idle(self, now: float) -> bool:
        """Whether the client has asked for nothing for longer than connections are kept."""
        return bool(self.idle_since) and now - self.idle_since > self.timeout_keep_alive

    def overdue(self, now: float) -> bool:
        """Whether the client takes too long to send what it began to send."""
        if not self.waiting_since:
            return False
        waited = now - self.waiting_since
        if not self.in_body:
            return waited > HEAD_SECONDS
        return waited > BODY_SECONDS and self.body_bytes < waited * BODY_BYTES_A_SECOND

    def stalled(self, now: float) -> bool:
        """Whether the client has read nothing for too long while its answer waits."""
        if not self.flow.write_paused:
            self.unread_since = 0.0
            return False
        unread = self.transport.get_write_buffer_size()
        if not self.unread_since or unread != self.unread:
            self.unread_since, self.unread = now, unread
        return now - self.unread_since > STALLED_SECONDS

    def _grow(self, size: int) -> None:
        self.head_bytes += size
        if self.head_bytes > MAX_HEAD_BYTES:
            self.head_overflow = True

    def _ambiguous_length(self) -> bool:
        lengths = codings = 0
        for name, _ in self.headers:
            lengths += name == b"content-length"
            codings += name == b"transfer-encoding"
        return lengths + codings > 1

    def _refuse(self) -> None:
        status = b"431 Request Header Fields Too Large" if self.head_overflow else b"400 Bad Request"
        text = b"The request's head is too large or ambiguous; send at most 64 headers and 32 KiB."
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (status, len(text), text)
        )
        self.transport.close()


def cycle_of(scope: Scope) -> RequestResponseCycle | None:
    """uvicorn's own state of this request, None where a later one has come or another server runs the application.

    Through it an answer is written past ASGI: uvicorn takes every header through two regular expressions, 7 us an
    answer where this takes 1.6, and every piece of a stream through a coroutine.
    """
    connection = scope.get(CONNECTION)
    cycle = connection.cycle if isinstance(connection, Connection) else None
    return cycle if cycle is not None and cycle.scope is scope else None  # type: ignore[comparison-overlap]


def answer_whole(scope: Scope, headers: Headers, body: bytes, status: bytes = b"200 OK") -> bool:
    """Write a whole answer in one piece; False where ASGI must do it: another server, or a client that reads slowly."""
    cycle = cycle_of(scope)
    if cycle is None or cycle.response_started or cycle.flow.write_paused:
        return False
    if cycle.disconnected:
        return True
    head = _head(cycle, headers, status)
    cycle.response_started = cycle.response_complete = True
    cycle.transport.write(b"%b\r\n%b" % (head, body))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True


def begin_chunked(cycle: RequestResponseCycle, headers: Headers, first: bytes) -> None:
    """Write the head of a 200 whose body comes in chunks, and the first of them; ASGI may carry on from there."""
    head = _head(cycle, headers)
    cycle.response_started = cycle.chunked_encoding = True
    cycle.transport.write(b"%btransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (head, len(first), first))


def _head(cycle: RequestResponseCycle, headers: Headers, status: bytes = b"200 OK") -> bytes:
    if not cycle.keep_alive:
        headers = [*headers, (b"connection", b"close")]
    head = b"".join([b"%b: %b\r\n" % header for header in headers])
    if head.count(b"\n") != len(headers) or head.count(b"\r") != len(headers) or b"\0" in head:
        raise ValueError("a header field takes one line")
    cycle.waiting_for_100_continue = False
    return b"HTTP/1.1 %b\r\n%b" % (status, head)


async def sweep(connections: Callable[[], Any]) -> None:
    """End connections that are slow, stalled or idle for too long, once a second, for ever."""
    while True:
        await asyncio.sleep(1.0)
        now = time.monotonic()
        for each in list(connections()):
            if not isinstance(each, Connection):
                continue
            if each.stalled(now):
                each.transport.abort()
            elif each.overdue(now) or each.idle(now):
                each.transport.close()
