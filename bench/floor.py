"""The floor of this stack: what a plain call must cost in Python and the kernel, whatever the code around it does.

Single operations, each the best of many batches on a warm cache: what the server, the client, JSON, Redis and the
spool do once for every call. It is a sum of parts that cannot be left out, not a design.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import time
import zlib
from collections.abc import Callable
from typing import Any

import hiredis
import httptools
import msgspec
import uvloop

from bench.cells import CELLS, bodies
from bench.stages import ANSWER
from gateway.seed import ENDPOINT

_BATCH, _BATCHES = 200, 60
_RECORD = os.urandom(700)
_REPLY = b"$96\r\n" + b"x" * 96 + b"\r\n"


class _Nothing:
    """Hears what a parser says, as protocols must, and does nothing."""

    def on_header(self, name: bytes, value: bytes) -> None: ...

    def on_body(self, body: bytes) -> None: ...

    def on_message_complete(self) -> None: ...


def best(work: Callable[[], Any]) -> float:
    """Microseconds of one go, the best of many batches."""
    found = 1.0
    for _ in range(_BATCHES):
        began = time.perf_counter()
        for _ in range(_BATCH):
            work()
        found = min(found, (time.perf_counter() - began) / _BATCH)
    return found * 1e6


async def _turn() -> float:
    """Microseconds of one turn of the event loop that wakes one task."""
    loop = asyncio.get_running_loop()
    found = 1.0
    for _ in range(_BATCHES):
        began = time.perf_counter()
        for _ in range(_BATCH):
            woken = loop.create_future()
            loop.call_soon(woken.set_result, None)
            await woken
        found = min(found, (time.perf_counter() - began) / _BATCH)
    return found * 1e6


def _sockets(family: int) -> tuple[socket.socket, socket.socket]:
    if family == socket.AF_UNIX:
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return one, server.accept()[0]


def _exchange(family: int, sent: bytes) -> float:
    one, other = _sockets(family)
    with one, other:

        def go() -> None:
            one.send(sent)
            other.recv(1 << 16)

        return best(go)


def measure() -> list[tuple[str, float]]:
    """(part, microseconds a call)."""
    body = bodies(CELLS[1], ENDPOINT)[0]
    request = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\n"
    request += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    answer %= (len(ANSWER), ANSWER)
    server, client = httptools.HttpRequestParser(_Nothing()), httptools.HttpResponseParser(_Nothing())
    value = msgspec.json.decode(body)
    replies = hiredis.Reader()

    def replied() -> None:
        replies.feed(_REPLY)
        replies.gets()

    def json() -> None:
        msgspec.json.encode(msgspec.json.decode(body))
        msgspec.json.decode(ANSWER, type=dict[str, msgspec.Raw])

    with tempfile.TemporaryFile() as file:

        def append() -> None:
            zlib.crc32(_RECORD)
            os.write(file.fileno(), _RECORD)

        record = {"fields": list(range(24)), "value": value["model"]}
        spool = 2 * (best(append) + best(lambda: msgspec.msgpack.encode(record)))
    tcp = _exchange(socket.AF_INET, request)
    turn = uvloop.run(_turn())
    return [
        ("server: receive, parse and send (TCP)", tcp + best(lambda: server.feed_data(request))),
        ("client: send, receive and parse (TCP)", tcp + best(lambda: client.feed_data(answer))),
        ("JSON: read and write the body, read the answer", best(json)),
        ("Redis: two commands and their replies", 2 * best(replied) + _exchange(socket.AF_UNIX, _RECORD) / 4),
        ("spool: two records packed, summed and written", spool),
        ("event loop: three turns", 3 * turn),
    ]
