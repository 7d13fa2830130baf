"""One corpus of what upstreams do to their clients, held against both clients: same bytes in, same outcome out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from engines.errors import ConnectFailed, EngineError, Garbled, TimedOut
from engines.transport import Timeouts, Transport
from tests.engines.http1.byte_server import FIN, HOLD, RST, ByteServer, Step, answer, chunked

Make = Callable[..., Transport]
BODY = b'{"choices":[{"index":0}]}'
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"

CORPUS: dict[str, tuple[list[Step], tuple[int, bytes] | type[EngineError]]] = {
    "a length": ([answer(BODY)], (200, BODY)),
    "chunks": ([chunked(BODY[:5], BODY[5:])], (200, BODY)),
    "chunks with extensions": ([CHUNKED + b"5;a=b\r\nhello\r\n0\r\n\r\n"], (200, b"hello")),
    "trailers": ([chunked(b"hello", end=b"0\r\nx-sum: 1\r\nx-more: 2\r\n\r\n")], (200, b"hello")),
    "an empty body": ([answer(b"")], (200, b"")),
    "no body at all": ([b"HTTP/1.1 204 No Content\r\n\r\n"], (204, b"")),
    "a body that ends with the connection": ([HEAD + b"\r\n" + BODY, FIN], (200, BODY)),
    "HTTP/1.0": ([b"HTTP/1.0 200 OK\r\n\r\n" + BODY, FIN], (200, BODY)),
    "HTTP/1.0 with a length": ([b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", FIN], (200, b"hi")),
    "an interim answer first": ([b"HTTP/1.1 100 Continue\r\n\r\n" + answer(BODY)], (200, BODY)),
    "early hints apart": (
        [b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", 0.02, answer(BODY)],
        (200, BODY),
    ),
    "an error status": ([answer(b"no", status=b"503 Unavailable")], (503, b"no")),
    "a redirect is not followed": (
        [answer(b"", status=b"307 Temporary Redirect", extra=b"location: /elsewhere\r\n")],
        (307, b""),
    ),
    "a refusal that closes": (
        [answer(b"big", status=b"413 Too Large", extra=b"connection: close\r\n"), FIN],
        (413, b"big"),
    ),
    "closed at once": ([FIN], ConnectFailed),
    "reset at once": ([RST], ConnectFailed),
    "closed inside the head": ([b"HTTP/1.1 200 OK\r\ncontent-le", FIN], ConnectFailed),
    "closed inside a length": ([answer(BODY)[:-4], FIN], Garbled),
    "closed inside a chunk": ([chunked(BODY)[:-12], FIN], Garbled),
    "closed between chunks": ([CHUNKED + b"5\r\nhello\r\n", FIN], Garbled),
    "reset inside the body": ([answer(BODY)[:-4], 0.05, RST], EngineError),
    "silence instead of an answer": ([HOLD], TimedOut),
    "silence inside the head": ([b"HTTP/1.1 200 OK\r\ncont", HOLD], TimedOut),
    "silence inside the body": ([answer(BODY)[:-4], HOLD], TimedOut),
    "another protocol": ([b"SSH-2.0-OpenSSH_9\r\n\r\n", FIN], EngineError),
    "a bad status line": ([b"HTTP/1.1 abc\r\n\r\n", FIN], Garbled),
    "a bad chunk size": ([CHUNKED + b"zz\r\nhello\r\n", FIN], Garbled),
    "a chunk longer than its size": ([CHUNKED + b"3\r\nhello\r\n0\r\n\r\n", FIN], Garbled),
    "a bad length": ([HEAD + b"content-length: many\r\n\r\nhello", FIN], Garbled),
    "two lengths": ([HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!", FIN], Garbled),
    "a length and chunks": (
        [HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", FIN],
        Garbled,
    ),
    "a head without an end": ([HEAD + b"x: y\r\n" * 40_000, FIN], Garbled),
    "a field without an end": ([HEAD + b"x: " + b"y" * 200_000, FIN], Garbled),
    "a control character in a field": ([HEAD + b"x: a\x00b\r\ncontent-length: 2\r\n\r\nhi", FIN], Garbled),
}


async def outcome(call: Any) -> tuple[int, bytes] | type[EngineError]:
    """What a call came to."""
    try:
        return await asyncio.wait_for(call, 4)
    except EngineError as error:
        return type(error)


async def posted(transport: Transport) -> tuple[int, bytes]:
    """A whole answer."""
    response = await transport.post("/v1/chat/completions", b"{}", {"x-request-id": "1"})
    return response.status, response.body


async def streamed(transport: Transport) -> tuple[int, bytes]:
    """The same, read piece by piece."""
    opened = await transport.open("/v1/chat/completions", b"{}", {"x-request-id": "1"})
    try:
        data = b""
        while piece := await opened.read():
            data += piece
        return opened.status, data
    finally:
        opened.close()


def agrees(found: object, expected: object) -> bool:
    if isinstance(expected, type):
        return isinstance(found, type) and issubclass(found, expected)
    return found == expected


@pytest.mark.parametrize("name", CORPUS)
@pytest.mark.parametrize("way", [posted, streamed])
async def test_both_clients_make_the_same_of_an_answer(make: Make, way: Any, name: str) -> None:
    steps, expected = CORPUS[name]
    async with ByteServer(steps) as server:
        found = await outcome(way(make(server.url)))
    assert agrees(found, expected), f"{name}: {found}"
    assert len(server.calls) == 1, "nothing is sent twice"


WHOLE = [name for name, (steps, expected) in CORPUS.items() if isinstance(expected, tuple)]


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("name", WHOLE)
async def test_an_answer_in_small_pieces_is_the_same_answer(make: Make, name: str, size: int) -> None:
    steps, expected = CORPUS[name]
    async with ByteServer(steps, slice_bytes=size) as server:
        transport = make(server.url)
        assert await outcome(posted(transport)) == expected
        assert await outcome(streamed(transport)) == expected


@pytest.mark.parametrize("way", [posted, streamed])
async def test_a_connection_that_is_whole_carries_the_next_call(make: Make, way: Any) -> None:
    async with ByteServer([chunked(BODY)]) as server:
        transport = make(server.url)
        for _ in range(5):
            assert await way(transport) == (200, BODY)
        assert server.connections == 1
        assert len(server.calls) == 5


async def test_what_is_sent_is_one_well_formed_request(make: Make) -> None:
    async with ByteServer([answer(BODY)]) as server:
        transport = make(server.url + "/base", headers={"authorization": "Bearer up"})
        await transport.post("/v1/chat/completions", b'{"a":1}', {"x-request-id": "abc"})
    head, _, body = server.calls[0].partition(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    assert line == b"POST /base/v1/chat/completions HTTP/1.1"
    assert body == b'{"a":1}'
    given = {name.lower(): value.strip() for name, _, value in (each.partition(b":") for each in fields)}
    assert given[b"host"] == f"127.0.0.1:{server.port}".encode()
    assert given[b"content-length"] == b"7"
    assert given[b"content-type"] == b"application/json"
    assert given[b"accept-encoding"] == b"identity"
    assert given[b"authorization"] == b"Bearer up"
    assert given[b"x-request-id"] == b"abc"


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
async def test_a_header_that_would_end_its_line_is_never_sent(make: Make, end: str) -> None:
    async with ByteServer([answer(BODY)]) as server:
        with pytest.raises((ValueError, EngineError)):
            await make(server.url).post("/v1", b"{}", {"x-request-id": f"a{end}x-evil: 1"})
        assert not any(b"x-evil" in each for each in server.calls)


async def test_headers_are_found_whatever_their_case(make: Make) -> None:
    async with ByteServer(
        [answer(b"", extra=b"Retry-After: 7\r\nCONTENT-TYPE: text/event-stream\r\n")]
    ) as server:
        response = await make(server.url).post("/v1", b"{}", {})
    assert response.headers.get("retry-after") == "7"
    assert response.headers.get("content-type") == "text/event-stream"


@pytest.mark.parametrize("extra", [answer(b"unasked"), b"nonsense"])
async def test_an_answer_that_nobody_asked_for_is_never_the_next_ones(make: Make, extra: bytes) -> None:
    async with ByteServer([answer(BODY) + extra]) as server:
        transport = make(server.url)
        for _ in range(3):
            found = await outcome(posted(transport))
            # aiohttp may see the surplus before it hands over the answer; ours hands over what was whole.
            assert found in ((200, BODY), Garbled), found


async def test_a_connection_that_the_upstream_closed_while_idle_is_not_used(make: Make) -> None:
    async with ByteServer([answer(BODY), 0.05, FIN]) as server:
        transport = make(server.url)
        for _ in range(3):
            assert await posted(transport) == (200, BODY)
            await asyncio.sleep(0.15)
        assert server.connections == 3


async def test_nobody_listening_is_said_so(make: Make) -> None:
    async with ByteServer([]) as server:
        url = server.url
    assert await outcome(posted(make(url))) is ConnectFailed
    assert await outcome(make(url).get("/health")) is ConnectFailed


async def test_an_unknown_host_is_said_so(make: Make) -> None:
    assert await outcome(posted(make("http://no-such-host.invalid"))) is ConnectFailed


@pytest.mark.parametrize("way", [posted, streamed])
async def test_a_cancelled_call_ends_its_connection(make: Make, way: Any) -> None:
    async with ByteServer([HOLD]) as server:
        # No limit of time ends it instead.
        patient = Timeouts(first_byte=60, between=60, total=60)
        task = asyncio.create_task(way(make(server.url, timeouts=patient)))
        while not server.calls:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.gone.wait(), 2)


async def test_a_closed_stream_ends_its_connection(make: Make) -> None:
    async with ByteServer([CHUNKED + b"5\r\nhello\r\n", HOLD]) as server:
        opened = await make(server.url).open("/v1", b"{}", {})
        assert await opened.read() == b"hello"
        opened.close()
        opened.close()
        await asyncio.wait_for(server.gone.wait(), 2)


async def test_a_stream_read_to_its_end_keeps_its_connection(make: Make) -> None:
    async with ByteServer([chunked(b"hello")]) as server:
        transport = make(server.url)
        for _ in range(3):
            opened = await transport.open("/v1", b"{}", {})
            while await opened.read():
                pass
            opened.close()
        assert server.connections == 1


async def test_a_pumped_stream_is_the_same_stream_and_stops_where_its_taker_says(make: Make) -> None:
    async with ByteServer([chunked(*[b"%03d" % each for each in range(200)])]) as server:
        opened = await make(server.url).open("/v1", b"{}", {})
        taken: list[bytes] = []

        def some(data: bytes) -> bool:
            taken.append(data)
            return len(taken) % 3 != 0

        rounds = 0
        while not await opened.pump(some):
            rounds += 1
        assert b"".join(taken) == b"".join(b"%03d" % each for each in range(200))
        assert rounds == len(taken) // 3


@pytest.mark.parametrize("late", [0.0, 0.1])
async def test_what_a_taker_raises_reaches_the_one_who_pumps(make: Make, late: float) -> None:
    async with ByteServer([CHUNKED, late, b"5\r\nhello\r\n", HOLD]) as server:
        opened = await make(server.url).open("/v1", b"{}", {})

        def refuse(data: bytes) -> bool:
            raise LookupError(data)

        with pytest.raises(LookupError):
            await asyncio.wait_for(opened.pump(refuse), 3)
        opened.close()
        await asyncio.wait_for(server.gone.wait(), 2)


async def test_a_pumped_stream_that_breaks_off_gives_what_had_come(make: Make) -> None:
    async with ByteServer([CHUNKED + b"5\r\nhello\r\n", 0.1, b"5\r\nwor", FIN]) as server:
        opened = await make(server.url).open("/v1", b"{}", {})
        taken: list[bytes] = []
        with pytest.raises(EngineError):
            await asyncio.wait_for(opened.pump(lambda data: taken.append(data) is None), 3)
        assert b"".join(taken).startswith(b"hello")
        opened.close()


async def test_a_pumped_stream_that_falls_silent_is_given_up(make: Make) -> None:
    async with ByteServer([CHUNKED + b"5\r\nhello\r\n", HOLD]) as server:
        opened = await make(server.url).open("/v1", b"{}", {})
        with pytest.raises(TimedOut):
            await asyncio.wait_for(opened.pump(lambda _: True), 3)
        opened.close()


async def test_pieces_of_a_stream_are_handed_over_as_they_come(make: Make) -> None:
    async with ByteServer([CHUNKED + b"5\r\nhello\r\n", 0.1, b"5\r\nworld\r\n", 0.1, b"0\r\n\r\n"]) as server:
        opened = await make(server.url).open("/v1", b"{}", {})
        assert [await opened.read() for _ in range(3)] == [b"hello", b"world", b""]


async def test_a_stream_that_falls_silent_is_given_up(make: Make) -> None:
    async with ByteServer([CHUNKED + b"5\r\nhello\r\n", HOLD]) as server:
        opened = await make(server.url).open("/v1", b"{}", {})
        assert await opened.read() == b"hello"
        with pytest.raises(TimedOut):
            await asyncio.wait_for(opened.read(), 3)
        opened.close()


async def test_a_slow_reader_is_not_taken_for_a_silent_upstream(make: Make) -> None:
    piece: list[Step] = [b"5\r\nhello\r\n", 0.25]
    async with ByteServer([CHUNKED, *piece * 6, b"0\r\n\r\n"]) as server:
        opened = await make(server.url).open("/v1", b"{}", {})
        data = await opened.read()
        await asyncio.sleep(0.9)
        while more := await opened.read():
            data += more
        assert data == b"hello" * 6


async def test_calls_at_once_do_not_mix(make: Make) -> None:
    async with ByteServer([chunked(BODY)]) as server:
        # Fifty connections on one loop with the server: time is not what this is about.
        transport = make(server.url, timeouts=Timeouts(connect=10, first_byte=10, between=10, total=30))
        found = await asyncio.gather(*(posted(transport) for _ in range(50)))
        assert found == [(200, BODY)] * 50
        assert server.connections <= 50


async def test_an_error_body_is_read_up_to_a_cap(make: Make) -> None:
    async with ByteServer([answer(b"x" * 500_000, status=b"400 Bad Request")]) as server:
        opened = await make(server.url).open("/v1", b"{}", {})
        body = await opened.rest()
        opened.close()
    assert opened.status == 400
    assert 1 << 16 <= len(body) <= 500_000
