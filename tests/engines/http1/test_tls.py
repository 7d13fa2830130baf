"""TLS of our own client, on both event loops: who is believed, what passes, and what is left when it breaks off."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import random
import socket
import ssl
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from engines.aiohttp_client import AiohttpTransport
from engines.errors import ConnectFailed, EngineError, Garbled, TimedOut
from engines.http1 import tls as tls_module
from engines.http1.outflow import PIECE
from engines.http1.transport import Http1Transport
from engines.transport import Timeouts
from tests.engines.http1.authority import Authority
from tests.engines.http1.byte_server import CUT, FIN, ByteServer, Step, answer, chunked
from tests.engines.http1.test_agreement import BODY, CHUNKED, CORPUS, HEAD, agrees, outcome, posted, streamed
from tests.engines.http1.wire import Wire

PATIENT = Timeouts(connect=10, first_byte=10, between=10, total=60)
LARGE = random.Random(1).randbytes(3_500_000)


LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def on(*loops: str) -> Callable[[Callable[..., Coroutine[Any, Any, None]]], Callable[..., None]]:
    """Run a test on each of these event loops: what is done in production on the one, other tests do on the other."""

    def decorated(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(*, loop: str, **given: Any) -> None:
            with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
                runner.run(test(**given))

        given = inspect.signature(test)
        loop = inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)
        run.__signature__ = given.replace(parameters=[*given.parameters.values(), loop])  # type: ignore[attr-defined]
        return pytest.mark.parametrize("loop", loops)(run)

    return decorated


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("authority")


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    return Authority(folder)


@pytest.fixture(scope="module")
def good(authority: Authority) -> ssl.SSLContext:
    return authority.server()


@pytest.fixture(autouse=True)
def _trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.trust))


@asynccontextmanager
async def ours(url: str, timeouts: Timeouts = PATIENT) -> AsyncGenerator[Http1Transport]:
    transport = Http1Transport(url, timeouts=timeouts)
    try:
        yield transport
        assert transport._pool is None or transport._pool.open[0] == 0
    finally:
        await transport.aclose()


@asynccontextmanager
async def mute() -> AsyncGenerator[tuple[str, set[asyncio.StreamWriter]]]:
    """A server that takes connections and says nothing; and those that are open."""
    there: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there.add(writer)
        with contextlib.suppress(ConnectionError):
            while await reader.read(1 << 16):
                pass
        there.discard(writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", there
    server.close()


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


# who is believed


@pytest.mark.parametrize(
    "bad",
    [
        {"age": 9, "days": 2},
        {"age": -1, "days": 2},
        {"names": ["example.com"]},
        {"names": ["127.0.0.2"]},
        {"chain": False},
    ],
    ids=["expired", "not yet good", "another name", "another address", "a chain with a gap"],
)
@on("asyncio", "uvloop")
async def test_a_server_that_does_not_prove_who_it_is_gets_no_call(
    authority: Authority, bad: dict[str, Any]
) -> None:
    async with ByteServer([answer(BODY)], tls=authority.server(**bad)) as server:
        theirs = AiohttpTransport(server.url, timeouts=PATIENT)
        async with ours(server.url) as transport:
            for _ in range(3):
                assert await outcome(posted(transport)) is ConnectFailed
        assert await outcome(posted(theirs)) is ConnectFailed
        await theirs.aclose()
        assert not server.calls


@on("asyncio", "uvloop")
async def test_a_server_whose_authority_nobody_knows_gets_no_call(tmp_path: Path) -> None:
    async with ByteServer([answer(BODY)], tls=Authority(tmp_path).server()) as server:
        async with ours(server.url) as transport:
            assert await outcome(posted(transport)) is ConnectFailed
        assert not server.calls


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x28", b"\x16\x03"]
)
@on("asyncio", "uvloop")
async def test_a_server_that_speaks_no_tls_gets_no_call(said: bytes) -> None:
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1 << 16))
        writer.write(said)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with ours(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}") as transport:
        assert await outcome(posted(transport)) is ConnectFailed
    server.close()
    assert b"POST" not in heard[0]


@on("asyncio", "uvloop")
async def test_a_handshake_that_fails_is_ended_from_here() -> None:
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 16)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        heard.append(await reader.read())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with ours(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}") as transport:
        assert await outcome(posted(transport)) is ConnectFailed
        await until(lambda: heard)
    server.close()


@on("asyncio", "uvloop")
async def test_a_server_that_is_not_believed_is_told_why(authority: Authority) -> None:
    context = authority.server(age=9, days=2)

    def serve() -> str | None:
        taken, _ = listening.accept()
        with taken:
            taken.settimeout(20)
            try:
                context.wrap_socket(taken, server_side=True).recv(1)
            except ssl.SSLError as exc:
                return exc.reason
        return "believed"

    with socket.create_server(("127.0.0.1", 0)) as listening:
        told = asyncio.create_task(asyncio.to_thread(serve))
        async with ours(f"https://127.0.0.1:{listening.getsockname()[1]}") as transport:
            assert await outcome(posted(transport)) is ConnectFailed
            assert "CERTIFICATE_EXPIRED" in str(await told)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@on("asyncio", "uvloop")
async def test_the_old_versions_are_not_spoken(authority: Authority) -> None:
    context = authority.server()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with ByteServer([answer(BODY)], tls=context) as server, ours(server.url) as transport:
        assert await outcome(posted(transport)) is ConnectFailed


@on("asyncio", "uvloop")
async def test_a_server_that_wants_a_certificate_of_ours_is_told_no(authority: Authority) -> None:
    context = authority.server()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.trust)
    async with ByteServer([answer(BODY)], tls=context) as server:
        async with ours(server.url) as transport:
            assert await outcome(posted(transport)) is ConnectFailed
        assert not server.calls


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@on("asyncio", "uvloop")
async def test_the_name_is_said_and_http_1_1_is_asked_for(
    authority: Authority, version: ssl.TLSVersion
) -> None:
    context = authority.server()
    context.maximum_version = version
    asked: list[str | None] = []
    context.sni_callback = lambda _, name, __: asked.append(name)
    spoken: list[tuple[str | None, str | None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        about = writer.get_extra_info("ssl_object")
        spoken.append((about.selected_alpn_protocol(), about.version()))
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(answer(BODY))
        writer.close()

    server = await asyncio.start_server(serve, "localhost", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    async with ours(f"https://localhost:{port}") as transport:
        assert await posted(transport) == (200, BODY)
    server.close()
    assert asked == ["localhost"]
    assert spoken == [("http/1.1", version.name.replace("_", "."))]


# what passes


async def every(calls: list[Coroutine[Any, Any, None]]) -> None:
    """All of them, a dozen at once."""
    places = asyncio.Semaphore(12)

    async def one(call: Coroutine[Any, Any, None]) -> None:
        async with places:
            await call

    await asyncio.gather(*map(one, calls))


@on("uvloop")
async def test_the_whole_corpus_comes_to_the_same_over_tls_and_with_aiohttp(good: ssl.SSLContext) -> None:
    limits = Timeouts(connect=10, first_byte=1.0, between=1.0, total=10)

    async def case(name: str, kind: Any, way: Any) -> None:
        steps, expected = CORPUS[name]
        async with ByteServer(steps, tls=good) as server:
            transport = kind(server.url, timeouts=limits)
            found = await outcome(way(transport))
            await transport.aclose()
        assert agrees(found, expected), f"{name}, {kind.__name__}: {found}"

    ways = [(Http1Transport, posted), (Http1Transport, streamed), (AiohttpTransport, posted)]
    await every([case(name, kind, way) for name in CORPUS for kind, way in ways])


@on("asyncio", "uvloop")
async def test_a_connection_carries_many_calls(good: ssl.SSLContext) -> None:
    async with ByteServer([chunked(BODY)], tls=good) as server, ours(server.url) as transport:
        for _ in range(4):
            assert await posted(transport) == (200, BODY)
            assert await streamed(transport) == (200, BODY)
        assert server.connections == 1


@on("asyncio", "uvloop")
async def test_fifty_at_once_each_get_their_own(good: ssl.SSLContext) -> None:
    async with ByteServer([chunked(BODY)], tls=good) as server, ours(server.url) as transport:
        assert await asyncio.gather(*(posted(transport) for _ in range(50))) == [(200, BODY)] * 50
        assert len(server.calls) == 50


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@on("asyncio", "uvloop")
async def test_records_that_come_byte_by_byte_are_whole(
    authority: Authority, version: ssl.TLSVersion
) -> None:
    context = authority.server()
    context.maximum_version = version
    async with (
        ByteServer([chunked(*[b"%04d" % each for each in range(100)])], tls=context) as server,
        Wire(server.port, crumbs=True) as wire,
        ours(wire.url) as transport,
    ):
        expected = b"".join(b"%04d" % each for each in range(100))
        assert await posted(transport) == (200, expected)
        assert await streamed(transport) == (200, expected)
        assert server.connections == 1


@pytest.mark.parametrize("encrypted", [True, False], ids=["tls", "plain"])
@pytest.mark.parametrize("size", [1 << 16, (1 << 16) + 1, PIECE, PIECE + 1, len(LARGE)])
@on("asyncio", "uvloop")
async def test_large_bodies_are_the_same_at_the_other_end(
    good: ssl.SSLContext, size: int, encrypted: bool
) -> None:
    body = LARGE[:size]
    async with (
        ByteServer([answer(body)], tls=good if encrypted else None) as server,
        ours(server.url) as transport,
    ):
        for _ in range(2):
            response = await transport.post("/v1", body, {})
            assert response.body == body
        opened = await transport.open("/v1", body, {})
        pieces = [piece async for piece in _pieces(opened)]
        assert b"".join(pieces) == body
        assert [each.partition(b"\r\n\r\n")[2] == body for each in server.calls] == [True] * 3
        assert server.connections == 1


async def _pieces(opened: Any) -> AsyncIterator[bytes]:
    while piece := await opened.read():
        yield piece


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Give every piece back as it comes."""
    head = await reader.readuntil(b"\r\n\r\n")
    left = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    writer.write(CHUNKED)
    while left:
        piece = await reader.read(min(left, 1 << 15))
        left -= len(piece)
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        await writer.drain()
        await reader.read()
    writer.close()


@pytest.mark.parametrize("encrypted", [True, False], ids=["tls", "plain"])
@on("asyncio", "uvloop")
async def test_an_answer_may_come_while_the_body_is_still_going(
    good: ssl.SSLContext, encrypted: bool
) -> None:
    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=good if encrypted else None)
    scheme = "https" if encrypted else "http"
    async with ours(f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}") as transport:
        opened = await transport.open("/v1", LARGE, {})
        assert b"".join([piece async for piece in _pieces(opened)]) == LARGE
    server.close()


@pytest.mark.parametrize("encrypted", [True, False], ids=["tls", "plain"])
@on("uvloop")
async def test_an_upstream_that_does_not_read_makes_nothing_pile_up(
    good: ssl.SSLContext, encrypted: bool
) -> None:
    go_on = asyncio.Event()
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.readexactly(1))
        await go_on.wait()
        while not got[-1].endswith(b"END"):
            got.append(await reader.read(1 << 18))
        writer.write(answer(BODY))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 12, ssl=good if encrypted else None)
    scheme = "https" if encrypted else "http"
    body = LARGE * 8 + b"END"
    async with ours(f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}") as transport:
        task = asyncio.ensure_future(transport.post("/v1", body, {}))
        await until(lambda: got)
        pool = transport._pool
        assert pool is not None
        (connection,) = pool._busy
        outflow = connection._outflow
        assert outflow is not None
        # It goes on until the system's buffers are full, and then it waits.
        await until(lambda: outflow._held_back and connection._transport.get_write_buffer_size() > 1)
        for _ in range(20):
            await asyncio.sleep(0)
            assert connection._transport.get_write_buffer_size() <= 2 * PIECE
        assert outflow.left > 1 << 20
        go_on.set()
        assert (await task).body == BODY
    server.close()
    assert b"".join(got).partition(b"\r\n\r\n")[2] == body


@pytest.mark.parametrize("encrypted", [True, False], ids=["tls", "plain"])
@on("asyncio", "uvloop")
async def test_a_refusal_before_the_body_has_gone_stands_and_its_connection_does_not(
    good: ssl.SSLContext, encrypted: bool
) -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"big", status=b"413 Too Large"))
        with contextlib.suppress(ConnectionError):
            await writer.drain()
            await gone.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 12, ssl=good if encrypted else None)
    scheme = "https" if encrypted else "http"
    async with ours(f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}") as transport:
        response = await transport.post("/v1", LARGE * 8, {})
        assert (response.status, response.body) == (413, b"big")
        assert transport._pool is not None
        assert transport._pool.open == (0, 0)
    gone.set()
    server.close()


@on("asyncio", "uvloop")
async def test_a_slow_reader_holds_the_upstream_back(good: ssl.SSLContext) -> None:
    async with (
        ByteServer([chunked(*[b"x" * 65536] * 150)], tls=good) as server,
        ours(server.url) as transport,
    ):
        opened: Any = await transport.open("/v1", b"{}", {})
        await until(lambda: opened.paused)
        for _ in range(20):
            await asyncio.sleep(0.005)
            assert opened.held <= 1 << 18
        assert sum([len(piece) async for piece in _pieces(opened)]) == 65536 * 150


# how it ends


@pytest.mark.parametrize("way", [posted, streamed])
@on("asyncio", "uvloop")
async def test_an_end_without_a_farewell_makes_no_whole_answer_of_one_without_a_length(
    good: ssl.SSLContext, way: Any
) -> None:
    ends: list[tuple[list[Step], object]] = [
        ([HEAD + b"\r\n" + BODY, FIN], (200, BODY)),
        ([HEAD + b"\r\n" + BODY, CUT], Garbled),
        ([answer(BODY), CUT], (200, BODY)),
        ([chunked(BODY), CUT], (200, BODY)),
        ([answer(BODY)[:-1], CUT], Garbled),
        ([HEAD, CUT], ConnectFailed),
        ([CUT], ConnectFailed),
    ]
    for steps, expected in ends:
        async with ByteServer(steps, tls=good) as server, ours(server.url) as transport:
            assert agrees(await outcome(way(transport)), expected), steps


@on("asyncio", "uvloop")
async def test_a_connection_that_was_closed_while_idle_is_not_used(good: ssl.SSLContext) -> None:
    for end in (FIN, CUT):
        async with ByteServer([answer(BODY), end], tls=good) as server, ours(server.url) as transport:
            for _ in range(2):
                assert await posted(transport) == (200, BODY)
                await until(lambda: transport._pool is not None and transport._pool.open == (0, 0))
            assert server.connections == 2


@on("uvloop")
async def test_wherever_the_wire_breaks_or_lies_there_is_an_error_and_nothing_is_left(
    good: ssl.SSLContext,
) -> None:
    async with ByteServer([answer(b"x" * 3000)], tls=good) as server:
        async with Wire(server.port) as wire, ours(wire.url) as transport:
            assert await posted(transport) == (200, b"x" * 3000)
            whole = wire.sent

        async def broken(at: int, flip: bool) -> None:
            def change(start: int, data: bytes) -> bytes | None:
                if not start <= at < start + len(data):
                    return data if flip or start < at else None
                flipped = bytearray(data)
                flipped[at - start] ^= 1
                return bytes(flipped) if flip else data[: at - start]

            async with Wire(server.port, change) as wire, ours(wire.url, HASTY) as transport:
                found = await outcome(posted(transport))
                # What a session ticket says is nobody's: it may be wrong, or missing, and the answer right.
                right = found == (200, b"x" * 3000) and at > 0
                assert right or (isinstance(found, type) and issubclass(found, EngineError))
                await wire.all_gone()

        await every([broken(at, flip) for at in range(0, whole, 331) for flip in (True, False)])


SHORT = Timeouts(connect=1, first_byte=1, between=1, total=5)
HASTY = Timeouts(connect=0.4, first_byte=0.4, between=0.4, total=2)


@pytest.mark.parametrize("seed", range(2))
@on("uvloop")
async def test_no_bytes_whatever_inside_hang_or_confuse_it(good: ssl.SSLContext, seed: int) -> None:
    rng = random.Random(seed)
    whole = [b"".join(step for step in steps if isinstance(step, bytes)) for steps, _ in CORPUS.values()]
    whole = [each for each in whole if 0 < len(each) < 2000]

    async def one() -> None:
        data = bytearray(rng.choice(whole))
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data)) if data else 0
            data[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        way = rng.choice((posted, streamed))
        cut = rng.choice((FIN, CUT))
        async with (
            ByteServer([bytes(data), FIN]) as plain,
            ByteServer([bytes(data), cut], tls=good) as server,
            ours(plain.url, SHORT) as before,
            ours(server.url, SHORT) as transport,
        ):
            mine, other = await outcome(way(transport)), await outcome(way(before))
            assert isinstance(mine, tuple) or issubclass(mine, EngineError)
            if isinstance(mine, tuple) or cut is FIN:
                assert mine == other, bytes(data)

    await every([one() for _ in range(25)])


# what takes long, and what is given up


@on("asyncio", "uvloop")
async def test_the_time_to_connect_covers_the_handshake() -> None:
    async with mute() as (url, there):
        limits = Timeouts(connect=0.05, first_byte=60, between=60, total=60)
        async with ours(url, limits) as transport:
            found = await asyncio.gather(*(outcome(posted(transport)) for _ in range(8)))
            assert found == [TimedOut] * 8
        await until(lambda: not there)


@on("asyncio", "uvloop")
async def test_handshakes_that_are_given_up_leave_nothing_and_keep_nobody_waiting(
    good: ssl.SSLContext,
) -> None:
    async with mute() as (url, there), ByteServer([answer(BODY)], tls=good) as server:
        async with ours(url) as silent, ours(server.url) as transport:
            tasks = [asyncio.create_task(posted(silent)) for _ in range(4 * tls_module.THREADS)]
            await until(lambda: len(there) == len(tasks))
            # Those that wait for the other side hold no thread.
            assert await posted(transport) == (200, BODY)
            for task in tasks:
                task.cancel()
            assert all(
                isinstance(each, asyncio.CancelledError)
                for each in await asyncio.gather(*tasks, return_exceptions=True)
            )
            await until(lambda: not there)


@on("asyncio", "uvloop")
async def test_a_handshake_is_given_up_while_a_thread_is_at_it(
    good: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_it, go_on = threading.Semaphore(0), threading.Event()
    trusted = tls_module.trusted

    def slowly() -> ssl.SSLContext:
        at_it.release()
        assert go_on.wait(10)
        return trusted()

    monkeypatch.setattr(tls_module, "trusted", slowly)
    async with ByteServer([answer(BODY)], tls=good) as server, ours(server.url) as transport:
        # As many as there are threads, and as many that wait for one.
        tasks = [asyncio.create_task(posted(transport)) for _ in range(2 * tls_module.THREADS)]
        for _ in range(tls_module.THREADS):
            assert await asyncio.to_thread(at_it.acquire, timeout=10)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert transport._pool is None or transport._pool.open == (0, 0)
        go_on.set()
        assert await posted(transport) == (200, BODY)
        assert transport._pool is not None
        assert transport._pool.open == (0, 1)


@on("asyncio", "uvloop")
async def test_a_call_is_given_up_while_a_thread_has_a_piece_of_it(
    good: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_it, go_on = threading.Semaphore(0), threading.Event()
    seal = tls_module._Cipher.seal

    def slowly(self: Any, data: Any) -> bytes:
        if len(data) > tls_module.INLINE:
            at_it.release()
            assert go_on.wait(10)
        return seal(self, data)

    monkeypatch.setattr(tls_module._Cipher, "seal", slowly)
    async with ByteServer([answer(BODY)], tls=good) as server, ours(server.url) as transport:
        task = asyncio.ensure_future(transport.post("/v1", LARGE, {}))
        assert await asyncio.to_thread(at_it.acquire, timeout=10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.gone.wait(), 10)
        go_on.set()
        assert await posted(transport) == (200, BODY)


@on("asyncio", "uvloop")
async def test_handshakes_and_large_pieces_are_nothing_of_the_loops(
    good: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_loop: list[str] = []
    here = threading.get_ident()
    for name in ("begin", "go_on", "seal"):
        real = getattr(tls_module._Cipher, name)

        def watched(self: Any, data: Any, *, name: str = name, real: Any = real) -> Any:
            if threading.get_ident() == here and (name != "seal" or len(data) > tls_module.INLINE):
                by_loop.append(name)
            return real(self, data)

        monkeypatch.setattr(tls_module._Cipher, name, watched)
    async with ByteServer([answer(BODY)], tls=good) as server, ours(server.url) as transport:
        assert (await transport.post("/v1", LARGE, {})).status == 200
        assert len(server.calls[0]) > len(LARGE)
    assert not by_loop
    assert sum(each.name.startswith("tls") for each in threading.enumerate()) <= tls_module.THREADS
    assert os.environ["SSL_CERT_FILE"] in {where for where, _ in tls_module._contexts}


@pytest.mark.parametrize("renews", ["tls 1.3: new keys", "tls 1.2: another handshake"])
@on("asyncio", "uvloop")
async def test_new_keys_and_another_handshake_in_the_middle_of_a_call_pass(
    authority: Authority, folder: Path, renews: str
) -> None:
    """With openssl's own server, since Python's cannot ask for either."""
    authority.server()
    file = max(folder.glob("server-*.pem"), key=lambda each: each.stat().st_mtime_ns)
    old = renews.startswith("tls 1.2")
    try:
        server = await asyncio.create_subprocess_exec(
            "openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", file, "-cert_chain", file, "-key", file,
            "-tls1_2" if old else "-tls1_3",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("there is no openssl")
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        async with asyncio.timeout(20):
            while not (line := await server.stdout.readline()).startswith(b"ACCEPT"):
                assert line
            async with ours(f"https://127.0.0.1:{int(line.rpartition(b':')[2])}") as transport:
                for _ in range(2):
                    call = asyncio.create_task(posted(transport))
                    while b"x-request-id" not in await server.stdout.readline():
                        pass
                    server.stdin.write(b"R\n" if old else b"K\n")
                    await asyncio.sleep(0.05)
                    server.stdin.write(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi\n")
                    assert await call == (200, b"hi\n")
    finally:
        server.kill()
        await server.wait()
