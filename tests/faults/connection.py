"""The upstream's side of one HTTP/1.1 connection: bytes in, one `Exchange` at a time out.

A request is recorded before its first byte is answered. Pipelining is refused by closing, no client here does it.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

import httptools

from tests.faults.exchange import Exchange
from tests.faults.http11 import plain_head


class Desk(Protocol):
    """What a connection asks of its server."""

    connections: set[Connection]

    def answer(self, connection: Connection, method: str, target: bytes, body: bytes) -> Exchange | bytes: ...


class Connection(asyncio.Protocol):
    """Parses requests and passes on what the peer does meanwhile."""

    transport: asyncio.Transport

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._parser = httptools.HttpRequestParser(self)
        self._exchange: Exchange | None = None
        self._target = b""
        self._body: list[bytes] = []
        self._keep_alive = True
        self.headers: list[tuple[bytes, bytes]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self._desk.connections.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.write(plain_head(400, 0, "connection: close\r\n"))
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._desk.connections.discard(self)
        if self._exchange is not None:
            self._exchange.peer_closed()

    def pause_writing(self) -> None:
        if self._exchange is not None:
            self._exchange.pause()

    def resume_writing(self) -> None:
        if self._exchange is not None:
            self._exchange.resume()

    # the parser speaks

    def on_message_begin(self) -> None:
        self._target = b""
        self._body = []
        self.headers = []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._exchange is not None:
            self.transport.abort()
            return
        self._keep_alive = self._parser.should_keep_alive()
        method = self._parser.get_method().decode()
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        answer = self._desk.answer(self, method, self._target, body)
        if isinstance(answer, bytes):
            self.transport.write(answer)
            self._close_unless_kept()
            return
        self._exchange = answer
        answer.start()

    def header(self, name: bytes) -> bytes | None:
        """The value of a request header."""
        for known, value in self.headers:
            if known == name:
                return value
        return None

    def finished(self) -> None:
        """The exchange is over and the connection is whole."""
        self._exchange = None
        self._close_unless_kept()

    def _close_unless_kept(self) -> None:
        if not self._keep_alive:
            self.transport.close()
