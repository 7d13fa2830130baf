"""Whole answers written past ASGI: the same bytes to the client, on connections that stay and that end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from gateway.http.connection import Connection, answer_whole

HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"2"), (b"x-request-id", b"abc")]


async def app(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    if scope["path"] == "/wrapped":

        async def wrapped(message: Any) -> None:
            await send(message)

        assert not answer_whole(wrapped, HEADERS, b"{}")
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": b"{}"})
    elif scope["path"] == "/broken":
        with pytest.raises(ValueError, match="one line"):
            answer_whole(send, [(b"x", b"a\r\nx-evil: 1")], b"")
        assert answer_whole(send, HEADERS, b"no")
    else:
        assert answer_whole(send, HEADERS, b"{}")


@pytest.fixture
async def port() -> AsyncIterator[int]:
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        server_header=False,
        date_header=False,
        port=0,
    )
    server = uvicorn.Server(config)
    server.config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await server.shutdown()


async def exchanged(port: int, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    try:
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


def request(path: str, *, close: bool = False) -> bytes:
    end = b"Connection: close\r\n" if close else b""
    return b"POST %b HTTP/1.1\r\nHost: x\r\n%bContent-Length: 4\r\n\r\nbody" % (path.encode(), end)


OURS = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nx-request-id: abc\r\n"


async def test_the_last_answer_of_a_connection_says_so_and_ends_it(port: int) -> None:
    assert await exchanged(port, request("/", close=True)) == OURS + b"connection: close\r\n\r\n{}"


async def test_what_goes_through_asgi_reads_the_same(port: int) -> None:
    plain, wrapped = [await exchanged(port, request(path, close=True)) for path in ("/", "/wrapped")]
    assert plain == wrapped


async def test_calls_sent_at_once_are_answered_in_their_order(port: int) -> None:
    sent = request("/") + request("/wrapped") + request("/") + request("/", close=True)
    answer = await exchanged(port, sent)
    assert answer.count(OURS) == 4
    assert answer.endswith(b"connection: close\r\n\r\n{}")


async def test_a_header_of_two_lines_is_never_written(port: int) -> None:
    answer = await exchanged(port, request("/broken", close=True))
    assert b"evil" not in answer
    assert answer.endswith(b"\r\n\r\nno")
