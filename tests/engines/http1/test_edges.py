"""Where each limit of our own client begins, to the byte, and what a connection must not be used for again."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

import pytest

from engines.errors import ConnectFailed, Garbled
from engines.http1 import pool as pool_module
from engines.http1.connection import Connection
from engines.http1.transport import Http1Transport
from tests.engines.http1.byte_server import ByteServer, answer
from tests.engines.http1.test_agreement import BODY, posted
from tests.engines.http1.test_pump import HEAD, PIECE, Wire

OK = b"HTTP/1.1 200 OK\r\n"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n"


async def test_a_head_has_64_kib_and_not_a_byte_more() -> None:
    wire = Wire()
    reply = wire.connection.send(b"call", b"", whole=True)
    begun = OK + b"x: "
    wire.arrives(begun + b"y" * ((64 << 10) - len(begun)))
    assert reply.error is None
    wire.arrives(b"y")
    assert type(reply.error) is Garbled
    assert wire.released == [False]


async def test_the_heads_of_answers_without_a_body_do_not_add_up() -> None:
    wire = Wire()
    for _ in range(3):
        reply = wire.connection.send(b"call", b"", whole=True)
        wire.arrives(NO_CONTENT + b"x: " + b"y" * 40_000)
        wire.arrives(b"\r\n\r\n")
        assert reply.done
    assert wire.released == [True] * 3


@pytest.mark.parametrize(("fields", "well"), [(128, True), (129, False)])
async def test_a_head_has_128_fields_and_not_one_more(fields: int, well: bool) -> None:
    wire = Wire()
    reply = wire.connection.send(b"call", b"", whole=True)
    wire.arrives(NO_CONTENT + b"x: y\r\n" * fields + b"\r\n")
    assert (reply.done, type(reply.error) is Garbled) == (well, not well)


@pytest.mark.parametrize(("size", "well"), [(1_000, True), (1_001, False)])
async def test_a_whole_answer_has_its_cap_and_not_a_byte_more(size: int, well: bool) -> None:
    wire = Wire(most=1_000)
    reply = wire.connection.send(b"call", b"", whole=True)
    wire.arrives(answer(b"x" * size))
    assert (reply.done, type(reply.error) is Garbled) == (well, not well)


async def test_trailers_are_no_header_fields() -> None:
    wire = Wire()
    reply = wire.connection.send(b"call", b"", whole=True)
    wire.arrives(HEAD + PIECE + b"0\r\nx-sum: 1\r\nretry-after: 9\r\n\r\n")
    assert reply.done
    assert dict(reply.headers) == {"transfer-encoding": "chunked"}


async def test_a_connection_whose_call_is_not_all_sent_is_not_used_again() -> None:
    wire = Wire()
    reply = wire.connection.send(b"call", b"", whole=True)
    wire.unsent = 1
    wire.arrives(answer(BODY))
    assert reply.take() == BODY
    assert wire.released == [False]


async def test_a_connection_that_speaks_unasked_is_ended() -> None:
    wire = Wire()
    reply = wire.connection.send(b"call", b"", whole=True)
    wire.arrives(answer(BODY))
    assert wire.released == [True]
    wire.arrives(answer(b"of nobody"))
    assert wire.released == [True, False]
    assert wire.connection.closed
    assert reply.take() == BODY


async def test_silence_is_measured_from_what_came_last_and_has_its_own_limit_before_the_first_byte() -> None:
    wire = Wire()
    reply = wire.connection.send(b"call", b"", whole=False)
    limits = {"first_byte": 10.0, "between": 2.0, "total": 100.0}

    def overdue(seconds: float) -> str | None:
        """Which limit has passed, so long after something came."""
        found = reply.overdue(reply.heard + seconds, **limits)
        return None if found is None else str(found)

    wire.arrives(HEAD)
    assert overdue(11) is None, "nobody waits for it"
    reading = asyncio.create_task(reply.read())
    await asyncio.sleep(0)
    assert overdue(9) is None
    assert "first byte" in str(overdue(11))
    began, reply.heard = reply.began, 0.0
    wire.arrives(PIECE)
    assert reply.heard >= began
    assert await reading == b"piece."
    reading = asyncio.create_task(reply.read())
    await asyncio.sleep(0)
    assert overdue(1.5) is None
    assert "silence" in str(overdue(2.5))
    assert "total" in str(overdue(101))
    reading.cancel()


async def test_what_comes_after_a_caller_has_let_go_is_4_kib_at_most() -> None:
    wire = Wire()
    reply = wire.connection.send(b"call", b"", whole=False)
    wire.arrives(HEAD + PIECE)
    assert await reply.pump(lambda _: False) is False
    reply.let_go()
    wire.arrives(b"1000\r\n" + b"x" * 4096 + b"\r\n")
    assert not wire.connection.closed
    wire.arrives(b"1\r\nx\r\n")
    assert wire.connection.closed


def _says_more(peer: socket.socket) -> None:
    peer.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")


def _closes(peer: socket.socket) -> None:
    peer.close()


def _closes_half(peer: socket.socket) -> None:
    peer.shutdown(socket.SHUT_WR)


def _resets(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


@pytest.mark.parametrize("ends", [_says_more, _closes, _closes_half, _resets])
async def test_what_happened_to_an_idle_connection_is_seen_though_the_loop_has_not_been_told(
    ends: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_TRUSTED_SECONDS", 0.0)
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        transport = Http1Transport(f"http://127.0.0.1:{listening.getsockname()[1]}")
        call = asyncio.create_task(posted(transport))
        peer, _ = await loop.sock_accept(listening)
        with peer:
            assert await loop.sock_recv(peer, 1 << 16)
            await loop.sock_sendall(peer, answer(BODY))
            assert await call == (200, BODY)
            pool = transport._pool
            assert pool is not None
            assert pool.open == (0, 1)
            # From here on the loop has no turn.
            ends(peer)
            assert pool.idle() is None
            assert pool.open == (0, 0)
        await transport.aclose()


async def test_a_connection_that_is_gone_as_soon_as_it_is_there_gets_no_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = Connection.connection_made

    def made(self: Connection, transport: asyncio.BaseTransport) -> None:
        begun(self, transport)
        self.abort()

    monkeypatch.setattr(Connection, "connection_made", made)
    async with ByteServer([answer(BODY)]) as server:
        transport = Http1Transport(server.url)
        async with asyncio.timeout(10):
            with pytest.raises(ConnectFailed):
                await posted(transport)
        assert transport._pool is not None
        assert transport._pool.open == (0, 0)
        await transport.aclose()


async def test_so_many_connections_are_kept_idle_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "MOST_IDLE", 2)
    async with ByteServer([0.05, answer(BODY)]) as server:
        transport = Http1Transport(server.url)
        await asyncio.gather(*(posted(transport) for _ in range(5)))
        pool = transport._pool
        assert pool is not None
        assert pool.open == (0, 2)
        # The one used last is used first: the others end by themselves where fewer are needed.
        _, last = pool._idle
        assert pool.idle() is last
        await transport.aclose()
