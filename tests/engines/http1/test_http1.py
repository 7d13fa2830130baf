"""What only our own client promises: caps, pool, time limits, and that no bytes whatever can hang or confuse it."""

from __future__ import annotations

import asyncio
import random
import ssl
import subprocess
from pathlib import Path

import pytest

from engines.aiohttp_client import AiohttpTransport
from engines.errors import ConnectFailed, EngineError, Garbled, TimedOut
from engines.http1 import pool as pool_module
from engines.http1.address import Address
from engines.http1.answer import READ_AHEAD
from engines.http1.transport import Http1Transport
from engines.transport import Timeouts
from tests.engines.http1.byte_server import FIN, HOLD, ByteServer, Step, answer, chunked
from tests.engines.http1.test_agreement import CHUNKED, CORPUS, outcome, posted, streamed
from tests.faults.upstream import Upstream

QUICK = Timeouts(connect=0.5, first_byte=0.3, between=0.3, total=0.8)


def open_connections(transport: Http1Transport) -> tuple[int, int]:
    pool = transport._pool
    return (0, 0) if pool is None else pool.open


async def test_a_call_as_a_whole_has_a_limit_too() -> None:
    drip = [b"1\r\nx\r\n", 0.1] * 30
    async with ByteServer([CHUNKED, *drip, HOLD]) as server:
        transport = Http1Transport(server.url, timeouts=QUICK)
        began = asyncio.get_running_loop().time()
        assert await outcome(posted(transport)) is TimedOut
        assert await outcome(streamed(transport)) is TimedOut
        assert asyncio.get_running_loop().time() - began < 3
        assert open_connections(transport) == (0, 0)
        await transport.aclose()


async def test_a_whole_answer_over_the_cap_is_garbled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.http1.transport.MAX_ANSWER", 1000)
    async with ByteServer([answer(b"x" * 1001)]) as server:
        transport = Http1Transport(server.url, timeouts=QUICK)
        assert await outcome(posted(transport)) is Garbled
        await transport.aclose()


@pytest.mark.parametrize(
    "endless",
    [
        CHUNKED + b"5\r\nhello\r\n0\r\n" + b"x-t: y\r\n" * 30_000,
        CHUNKED + b"5\r\nhello\r\n0\r\nx-t: " + b"y" * 300_000,
        CHUNKED + b"5;" + b"e" * 300_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000,
    ],
)
async def test_nothing_beside_the_body_may_go_on_for_ever(endless: bytes) -> None:
    async with ByteServer([endless, HOLD]) as server:
        transport = Http1Transport(server.url)
        assert await outcome(posted(transport)) is Garbled
        await transport.aclose()


async def test_a_slow_reader_holds_the_upstream_back() -> None:
    async with ByteServer([chunked(*[b"x" * 65536] * 200)]) as server:
        transport = Http1Transport(server.url)
        opened = await transport.open("/v1", b"{}", {})
        await asyncio.sleep(0.3)
        assert opened.held <= READ_AHEAD + (1 << 18)  # type: ignore[attr-defined]
        size = 0
        while piece := await opened.read():
            size += len(piece)
        assert size == 65536 * 200
        opened.close()
        assert open_connections(transport) == (0, 1)
        await transport.aclose()


async def pumped_to(transport: Http1Transport, end: bytes) -> None:
    """Take a stream until its last event, and let go."""
    opened = await transport.open("/v1", b"{}", {})
    assert not await opened.pump(lambda data: not data.endswith(end))
    opened.let_go()
    opened.close()


@pytest.mark.parametrize("late", [0.0, 0.05])
async def test_an_answer_that_was_let_go_keeps_its_connection_where_it_ends_at_once(late: float) -> None:
    steps = [CHUNKED, 0.02, b"3\r\none\r\n", 0.02, b"3\r\nend\r\n", late, b"0\r\n\r\n"]
    async with ByteServer(steps) as server:
        transport = Http1Transport(server.url, timeouts=QUICK)
        for _ in range(3):
            await pumped_to(transport, b"end")
            async with asyncio.timeout(2):
                while open_connections(transport) != (0, 1):
                    await asyncio.sleep(0.005)
        assert server.connections == 1
        await transport.aclose()


@pytest.mark.parametrize("more", [[HOLD], [b"1000\r\n" + b"x" * 4096 + b"\r\n", b"5\r\nhello\r\n", HOLD]])
async def test_an_answer_that_was_let_go_and_does_not_end_is_dropped(more: list[Step]) -> None:
    async with ByteServer([CHUNKED, 0.02, b"3\r\nend\r\n", 0.02, *more]) as server:
        transport = Http1Transport(server.url)
        await pumped_to(transport, b"end")
        assert open_connections(transport) == (1, 0)
        await asyncio.wait_for(server.gone.wait(), 5)
        assert open_connections(transport) == (0, 0)
        await transport.aclose()


async def test_idle_connections_end_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "IDLE_SECONDS", 0.05)
    async with ByteServer([answer(b"{}")]) as server:
        transport = Http1Transport(server.url, timeouts=QUICK)
        await posted(transport)
        assert open_connections(transport) == (0, 1)
        await asyncio.wait_for(server.gone.wait(), 3)
        assert open_connections(transport) == (0, 0)
        await transport.aclose()


async def test_bytes_that_came_while_idle_are_seen_before_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "_TRUSTED_SECONDS", 0.0)
    async with ByteServer([answer(b"{}")]) as server:
        transport = Http1Transport(server.url)
        for _ in range(3):
            assert await posted(transport) == (200, b"{}")
        assert server.connections == 1
        await transport.aclose()


async def test_closing_fails_what_is_under_way() -> None:
    async with ByteServer([HOLD]) as server:
        transport = Http1Transport(server.url)
        task = asyncio.create_task(posted(transport))
        while not server.calls:
            await asyncio.sleep(0.001)
        await transport.aclose()
        with pytest.raises(ConnectFailed):
            await task


async def test_a_probe_does_not_wait_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.http1.transport._PROBE_SECONDS", 0.1)
    async with ByteServer([HOLD]) as server:
        transport = Http1Transport(server.url)
        assert await outcome(transport.get("/health")) is TimedOut
        await transport.aclose()


async def test_a_unix_socket_is_an_upstream_too(tmp_path: Path) -> None:
    upstream = await Upstream().start(uds=str(tmp_path / "up.sock"))
    transport = Http1Transport(f"unix:{tmp_path / 'up.sock'}")
    try:
        assert (await transport.get("/health")).status == 200
        body = b'{"model":"m","messages":[{"role":"user","content":"[[tokens=3]] hi"}]}'
        response = await transport.post("/v1/chat/completions", body, {"x-request-id": "u"})
        assert response.status == 200
        assert upstream.journal.of("u")[0].emitted == 3
    finally:
        await transport.aclose()
        await upstream.stop()


async def test_tls_is_verified_and_spoken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", cert],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("there is no openssl to make a certificate with")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n{}")
                writer.write(chunked(b"secret"))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "localhost", 0, ssl=context)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    stranger = Http1Transport(url)
    assert await outcome(posted(stranger)) is ConnectFailed
    await stranger.aclose()
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    transport = Http1Transport(url)
    for _ in range(3):
        assert await posted(transport) == (200, b"secret")
        assert await streamed(transport) == (200, b"secret")
    assert open_connections(transport) == (0, 1)
    await transport.aclose()
    server.close()


@pytest.mark.parametrize("seed", range(6))
async def test_no_bytes_whatever_hang_or_confuse_it(seed: int) -> None:
    """Corpus answers with bytes changed, cut, doubled: an answer or an EngineError, and nothing left behind.

    Where aiohttp takes the same bytes for a whole answer and so do we, it is the same answer.
    """
    rng = random.Random(seed)
    whole = [b"".join(step for step in steps if isinstance(step, bytes)) for steps, _ in CORPUS.values()]
    whole = [each for each in whole if 0 < len(each) < 2000]
    async with ByteServer([]) as server:
        ours = Http1Transport(server.url, timeouts=QUICK)
        theirs = AiohttpTransport(server.url, timeouts=QUICK)
        for _ in range(60):
            data = bytearray(rng.choice(whole))
            for _ in range(rng.randrange(1, 4)):
                at = rng.randrange(len(data)) if data else 0
                match rng.randrange(4):
                    case 0:
                        data[at:at] = bytes([rng.choice(b"\r\n :;0123456789abcdefxz\x00\xff")])
                    case 1:
                        del data[at : at + rng.randrange(1, 6)]
                    case 2:
                        data[at:at] = data[at : at + rng.randrange(1, 20)]
                    case _:
                        data[at : at + 1] = bytes([rng.randrange(256)])
            server.steps = [bytes(data), FIN]
            mine = await outcome(rng.choice((posted, streamed))(ours))
            other = await outcome(posted(theirs))
            assert isinstance(mine, tuple) or issubclass(mine, EngineError)
            if isinstance(mine, tuple) and isinstance(other, tuple):
                assert mine == other, bytes(data)
        assert open_connections(ours)[0] == 0
        await ours.aclose()
        await theirs.aclose()


@pytest.mark.parametrize(
    "url", ["ftp://x", "http://", "http://u:p@x", "http://x/a b", "http://x/?q", "http://x/\r\ny", "x:9"]
)
def test_an_address_that_could_change_the_request_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="an upstream's address"):
        Address.parse(url)


@pytest.mark.parametrize("path", ["/a b", "/a\r\nx: y", "/a\x00", "/\xe4"])
async def test_a_path_that_could_change_the_request_is_refused(path: str) -> None:
    transport = Http1Transport("http://127.0.0.1:1")
    with pytest.raises(ValueError, match="printable"):
        await transport.post(path, b"{}", {})


def test_addresses_are_read_as_written() -> None:
    assert Address.parse("http://h:9/b/").authority == "h:9"
    assert Address.parse("http://h:9/b/").prefix == "/b"
    assert Address.parse("https://h").port == 443
    assert Address.parse("https://h").authority == "h"
    assert Address.parse("http://[::1]:8").authority == "[::1]:8"
    assert Address.parse("unix:/run/x y.sock").unix == "/run/x y.sock"
