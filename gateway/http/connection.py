"""uvicorn's HTTP/1.1 protocol with what a gateway needs: told of a client that left, bounded heads, deadlines.

A raw ASGI application would learn of a disconnect only by a task that waits on `receive`; here the connection calls
back, which costs nothing while nothing happens. Who sends too slowly, reads nothing, or asks
for nothing any more, is let go by one sweep a second over all connections.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from engines.beats import beat

CONNECTION = "weighbridge.connection"
"""Scope key of the connection, on which a handler leaves what to call when the client is gone."""
BODY, TASK = "weighbridge.body", "weighbridge.task"
"""Scope keys of a hot call: its whole body, so that nothing is to be received, and the task that it runs in."""
_NOTHING: Mapping[bytes, Any] = {}
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"expect"})
MAX_HEADERS = 64
MAX_HEAD_BYTES = 32 << 10
HEAD_SECONDS = 10.0
BODY_SECONDS = 30.0
BODY_BYTES_A_SECOND = 1024
STALLED_SECONDS = 30.0
"""A client that takes nothing at all of its answer for so long is given up."""


class Guarded(Protocol):
    """Says whether anybody may be turned away now."""

    @property
    def guarded(self) -> bool: ...


class Doorkeeper(Protocol):
    """Asked with the target and head of each POST while its gate is guarded."""

    @property
    def gate(self) -> Guarded: ...

    def __call__(self, target: bytes, headers: list[tuple[bytes, bytes]], /) -> bytes | None:
        """The whole answer for a call that is not to be begun; None for any other."""
        ...

    def waits(self, tell: Callable[[], None], /) -> bool:
        """Whether such an answer is to wait until `tell` is called."""
        ...

    def remember(
        self, message: bytes, target: bytes, headers: list[tuple[bytes, bytes]], body: int, /
    ) -> None:
        """What came for a call that was turned away, and what was read of it."""
        ...

    def again(self, message: bytes, /) -> bytes | None:
        """The answer for a message that comes at a message's beginning, where it need not be read."""
        ...


class Connection(HttpToolsProtocol):
    """One client connection.

    A hot call whose head and body arrive together, as nearly all do, begins when it is whole: without an event, a queue
    or a look at headers by uvicorn, which saves 35 of a plain call's 250 Python calls. Any other takes uvicorn's way.
    """

    lost = False
    """The client is gone."""
    held: bytes | None = None
    """What has come of a hot call's body; None while none is coming."""
    on_left: Callable[[], object] | None = None
    """Called once when the connection is lost; the handler that is running sets it and clears it."""
    waiting_since: float = 0.0
    """When the present head or body began to arrive; 0 while nothing is awaited from the client."""
    idle_since: float = 0.0
    """Since when all is answered that was asked; 0 while something is not."""
    head_bytes = 0
    body_bytes = 0
    in_body = False
    head_overflow = False
    keeps = True
    """The connection stays open after the hot call that is coming."""
    unread_since: float = 0.0
    """When the answer's unsent bytes were last seen to change; 0 while the client keeps up."""
    unread = 0
    lengths = 0
    """How often the present head says how long its body is."""
    door: Doorkeeper | None = None
    passed_over = False
    """The present message was answered at the door: its body is dropped."""
    came: bytes | None = None
    """What began with the message that is read, for its door to remember."""
    owed = b""
    """What was answered at the door and waits to be sent."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.hot: Mapping[bytes, Any] = getattr(self.app, "hot", _NOTHING)
        self.waiting_since = time.monotonic()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.lost = True
        # They refer to it: it would stay until the collector finds it, and for ever where it was set aside meanwhile.
        self.cycle = None  # type: ignore[assignment]
        self.scope = {}  # type: ignore[typeddict-item]
        self.pipeline.clear()
        left, self.on_left = self.on_left, None
        if left is not None:
            left()

    def data_received(self, data: bytes) -> None:
        # As uvicorn's own, but for its timer (see on_response_complete) and its websockets.
        door = self.door
        if door is not None and door.gate.guarded and self.idle_since and not self.waiting_since:
            if self._turned_away_again(door, data):
                return
            self.came = data
        parser: Any = self.parser
        try:
            parser.feed_data(data)
        except httptools.HttpParserError:
            self.held = None
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")
        except httptools.HttpParserUpgrade:
            self._unsupported_upgrade_warning()
        self.came = None
        if self.held is not None:
            # There is more to come: the call begins without it, since nobody unknown gets a body read.
            held, self.held = self.held, None
            self._begin()
            super().on_body(held)

    def on_message_begin(self) -> None:
        if self.owed:
            # Nobody overtakes it.
            self._pay()
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self.head_bytes = self.body_bytes = self.lengths = 0
        self.in_body = False
        self.idle_since = 0.0
        self.waiting_since = time.monotonic()

    def on_url(self, url: bytes) -> None:
        self.head_bytes += len(url)
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.head_bytes += len(name) + len(value)
        headers = self.headers
        if self.head_bytes > MAX_HEAD_BYTES or len(headers) >= MAX_HEADERS:
            self.head_overflow = True
            return
        name = name.lower()
        if name in _FRAMING:
            if name != b"expect":
                self.lengths += 1
            elif value.lower() == b"100-continue":
                self.expect_100_continue = True
        headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.in_body = True
        parser: Any = self.parser
        before: Any = self.cycle
        door = self.door
        if self.head_overflow or self.head_bytes > MAX_HEAD_BYTES or self.lengths > 1:
            self._refuse()
        elif door is not None and door.gate.guarded and (answer := self._answer_of(door)) is not None:
            self.passed_over = True
            # Whoever cannot call again is told at once.
            if parser.should_keep_alive() and door.waits(self._pay):
                self.owed = answer
            else:
                self.transport.write(answer)
        elif (
            self.url in self.hot
            and (before is None or before.response_complete)
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and not parser.should_upgrade()
        ):
            self.held = b""
            self.keeps = parser.should_keep_alive()
        else:
            self._begin()

    def on_body(self, body: bytes) -> None:
        self.body_bytes += len(body)
        if self.held is not None:
            self.held = self.held + body if self.held else body
        elif not self.passed_over and not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        self.waiting_since = 0.0
        held, self.held = self.held, None
        if self.passed_over:
            self.passed_over = False
            self.idle_since = time.monotonic()
            came, self.came = self.came, None
            assert self.parser is not None
            if not self.parser.should_keep_alive():
                self.transport.close()
            elif came is not None and self.door is not None:
                self.door.remember(came, self.url, self.headers, self.body_bytes)
            return
        if self.transport.is_closing():
            return
        if held is None:
            super().on_message_complete()
        else:
            self._begin_whole(held)

    def _begin(self) -> None:
        """Begin a call in uvicorn's way: its body may come later, and another call may have to end first."""
        headers, url, expected = self.headers, self.url, self.expect_100_continue
        super().on_message_begin()
        self.headers, self.url, self.expect_100_continue = headers, url, expected
        scope = cast("dict[str, Any]", self.scope)
        scope["headers"], scope[CONNECTION] = headers, self
        super().on_headers_complete()

    def _begin_whole(self, body: bytes) -> None:
        """Begin a hot call that is all here."""
        path = self.url.decode("ascii")
        scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": self.scheme,
            "path": path,
            "raw_path": self.url,
            "root_path": "",
            "query_string": b"",
            "headers": self.headers,
            "client": self.client,
            "server": self.server,
            CONNECTION: self,
            BODY: body,
        }
        self.scope = scope  # type: ignore[assignment]
        self.cycle = cycle = RequestResponseCycle(
            scope,  # type: ignore[arg-type]
            self.transport,
            self.flow,
            self.logger,
            self.access_logger,
            self.access_log,
            self.server_state.default_headers,
            HERE,
            self.expect_100_continue,
            self.keeps,
            self.on_response_complete,
        )
        cycle.more_body = False
        # Not among uvicorn's own tasks, nor in its wrapper: whoever runs the application waits for it, and the handler says at its
        # end whether it has answered, which saves three of a plain call's Python calls and one function made.
        scope[TASK] = self.loop.create_task(self.hot[self.url](scope, cycle.receive, cycle.send))

    def leave(self, send: Any) -> None:
        """The handler of a hot call has ended: where it did not answer to the end, the connection ends."""
        # Whose method it is. In the scope it would be found sooner, and the two would keep each other.
        cycle: RequestResponseCycle = send.__self__
        if cycle.response_complete or cycle.disconnected:
            return
        if not cycle.response_started:
            cycle.response_started = True
            cycle.transport.write(_UNANSWERED)
        cycle.transport.close()

    def on_response_complete(self) -> None:
        # As uvicorn's own, but for its timer, set after each answer and taken back at the next call: 2 % of a call.
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
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

    def _answer_of(self, door: Doorkeeper) -> bytes | None:
        assert self.parser is not None
        cycle = cast("RequestResponseCycle | None", self.cycle)
        # Answers keep their order, and a client that reads none gets no more.
        if self.flow.write_paused or (cycle is not None and not cycle.response_complete):
            return None
        return door(self.url, self.headers) if self.parser.get_method() == b"POST" else None

    def _turned_away_again(self, door: Doorkeeper, message: bytes) -> bool:
        """Whether that was a call whose head its door knows: half of what it takes to read it."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if self.flow.write_paused or (cycle is not None and not cycle.response_complete):
            return False
        answer = door.again(message)
        if answer is None:
            return False
        if self.owed:
            # Nobody overtakes it.
            self._pay()
        self.idle_since = time.monotonic()
        if door.waits(self._pay):
            self.owed = answer
        else:
            self.transport.write(answer)
        return True

    def _pay(self) -> None:
        owed, self.owed = self.owed, b""
        if owed and not self.transport.is_closing():
            self.transport.write(owed)

    def _refuse(self) -> None:
        status = b"431 Request Header Fields Too Large" if self.head_overflow else b"400 Bad Request"
        text = b"The request's head is too large or ambiguous; send at most 64 headers and 32 KiB."
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (status, len(text), text)
        )
        self.transport.close()


_UNANSWERED = (
    b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 21\r\n"
    b"connection: close\r\n\r\nInternal Server Error"
)


class _Here(asyncio.Event):
    """For whoever would wait for a body that is here: it has happened, for every call alike."""

    def __init__(self) -> None:
        super().__init__()
        self.set()

    def clear(self) -> None:
        """It stays so."""


HERE = _Here()
"""Of all hot calls that are whole."""


async def sweep(connections: Callable[[], Any]) -> None:
    """End connections that are slow, stalled or idle for too long, once a second, for ever."""
    while True:
        await beat(1.0)
        now = time.monotonic()
        for each in list(connections()):
            if not isinstance(each, Connection):
                continue
            if each.stalled(now):
                each.transport.abort()
            elif each.overdue(now) or each.idle(now):
                each.transport.close()
