"""Whole answers written past ASGI: the same bytes to the client, on connections that stay and that end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.http.answering import answer_whole, apart, lines_of
from gateway.http.connection import CONNECTION, Connection, sweep
from gateway.http.outlet import AsgiOutlet, StraightOutlet, UnframedOutlet, outlet
from tests.http.listening import exchanged, listening

FLOOD_PIECES = 400
UNSENT: list[int] = []
"""Bytes that the client of /flood had not taken, after each piece."""
WRITTEN: list[tuple[bool, bool, int]] = []
"""Whether /whole had begun before its frames and after them, and how much of it was written then."""
LINES = b"content-type: application/json\r\ncontent-length: 2\r\nx-request-id: abc\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    if scope["path"] == "/elsewhere":
        assert not answer_whole({**scope}, LINES, b"{}")
    if scope["path"] == "/elsewhere" or (scope["path"] == "/ahead" and not answer_whole(scope, LINES, b"{}")):
        await send({"type": "http.response.start", "status": 200, "headers": apart(LINES)})
        await send({"type": "http.response.body", "body": b"{}"})
    elif scope["path"] == "/ahead":
        pass
    elif scope["path"].startswith("/stream"):
        told = b"content-type: text/event-stream\r\nx-request-id: abc\r\n"
        way = outlet({**scope} if scope["path"] == "/stream/asgi" else scope, send, lambda: told)
        straight = UnframedOutlet if scope["http_version"] == "1.0" else StraightOutlet
        assert type(way) is (AsgiOutlet if scope["path"] == "/stream/asgi" else straight)
        for piece in (b"data: 1\n\n", b"data: 2\n\n"):
            way.write(piece)
            await way.ready()
        way.write(b"data: [DONE]\n\n")
        await way.end()
    elif scope["path"].startswith("/whole"):
        told = b"content-type: text/event-stream\r\n"
        way = outlet({**scope} if scope["path"] == "/whole/asgi" else scope, send, lambda: told)
        begun = way.begun
        way.write(b"data: 1\n\n")
        way.write(b"data: [DONE]\n\n")
        WRITTEN.append((begun, way.begun, scope[CONNECTION].transport.get_write_buffer_size()))
        await way.end()
    elif scope["path"] == "/flood":
        way = outlet(scope, send, bytes)
        for _ in range(FLOOD_PIECES):
            if not way.write(b"x" * 65536):
                await way.ready()
            UNSENT.append(scope[CONNECTION].transport.get_write_buffer_size())
        await way.end()
    elif scope["path"] == "/broken":
        with pytest.raises(ValueError, match="one line"):
            answer_whole(scope, lines_of([(b"x", b"a\r\nx-evil: 1")]), b"")
        assert answer_whole(scope, LINES, b"no")
    else:
        assert answer_whole(scope, LINES, b"{}")


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with listening(app) as found:
        yield found


def request(path: str, *, close: bool = False) -> bytes:
    end = b"Connection: close\r\n" if close else b""
    return b"POST %b HTTP/1.1\r\nHost: x\r\n%bContent-Length: 4\r\n\r\nbody" % (path.encode(), end)


OURS = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nx-request-id: abc\r\n"


async def test_the_last_answer_of_a_connection_says_so_and_ends_it(port: int) -> None:
    assert await exchanged(port, request("/", close=True)) == OURS + b"connection: close\r\n\r\n{}"


async def test_what_goes_through_asgi_reads_the_same(port: int) -> None:
    plain, wrapped = [await exchanged(port, request(path, close=True)) for path in ("/", "/elsewhere")]
    assert plain == wrapped


async def test_calls_sent_at_once_are_answered_in_their_order(port: int) -> None:
    sent = request("/ahead") + request("/elsewhere") + request("/ahead") + request("/ahead", close=True)
    answer = await exchanged(port, sent)
    assert answer.count(OURS) == 4
    assert answer.endswith(b"connection: close\r\n\r\n{}")


async def test_a_header_of_two_lines_is_never_written(port: int) -> None:
    answer = await exchanged(port, request("/broken", close=True))
    assert b"evil" not in answer
    assert answer.endswith(b"\r\n\r\nno")


async def test_a_stream_reads_the_same_straight_and_by_asgi(port: int) -> None:
    straight, asgi = [
        await exchanged(port, request(path, close=True)) for path in ("/stream", "/stream/asgi")
    ]
    assert straight == asgi
    assert straight.endswith(
        b"\r\n\r\n9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
    )
    assert straight.count(b"transfer-encoding: chunked\r\n") == straight.count(b"connection: close\r\n") == 1


async def test_what_came_whole_is_written_at_its_end_in_one_piece(port: int) -> None:
    WRITTEN.clear()
    straight, asgi, unframed = [
        await exchanged(port, request(path, close=True).replace(b"HTTP/1.1", version))
        for path, version in (("/whole", b"HTTP/1.1"), ("/whole/asgi", b"HTTP/1.1"), ("/whole", b"HTTP/1.0"))
    ]
    body = b"data: 1\n\ndata: [DONE]\n\n"
    assert straight == asgi == b"%b\r\n\r\n17\r\n%b\r\n0\r\n\r\n" % (straight.partition(b"\r\n\r\n")[0], body)
    assert unframed.partition(b"\r\n\r\n")[2] == body
    assert WRITTEN == [(False, True, 0)] * 3, "it has begun, and nothing of it is written yet"


async def test_a_stream_to_http_1_0_has_no_chunks_and_ends_with_its_connection(port: int) -> None:
    answer = await exchanged(port, request("/stream").replace(b"HTTP/1.1", b"HTTP/1.0"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert body == b"data: 1\n\ndata: 2\n\ndata: [DONE]\n\n"
    flood = await exchanged(port, request("/flood").replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert len(flood.partition(b"\r\n\r\n")[2]) == FLOOD_PIECES * 65536


async def test_a_connection_carries_the_next_call_after_a_stream(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(2):
        writer.write(request("/stream"))
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n0\r\n\r\n"), 5)).startswith(b"HTTP/1.1 200 OK")
    writer.write(request("/", close=True))
    assert await asyncio.wait_for(reader.read(), 5) == OURS + b"connection: close\r\n\r\n{}"
    writer.close()


async def test_a_client_that_reads_slowly_gets_all_of_it(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
    UNSENT.clear()
    writer.write(request("/flood", close=True))
    size = 0
    while piece := await reader.read(1 << 20):
        size += piece.count(b"x")
        await asyncio.sleep(0.001)
    assert size == FLOOD_PIECES * 65536
    assert len(UNSENT) == FLOOD_PIECES
    assert max(UNSENT) <= 256 << 10, "what it has not taken waits upstream"
    writer.close()


async def test_a_client_that_reads_nothing_is_given_up(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.http.connection.STALLED_SECONDS", 0.5)
    seen: set[Connection] = set()
    made = Connection.connection_made

    def noted(self: Connection, transport: asyncio.Transport) -> None:
        seen.add(self)
        made(self, transport)

    monkeypatch.setattr(Connection, "connection_made", noted)
    sweeping = asyncio.create_task(sweep(lambda: seen))
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    writer.write(request("/flood"))
    gone = asyncio.Event()
    await reader.readexactly(1)
    (connection,) = seen
    connection.on_left = gone.set
    await asyncio.wait_for(gone.wait(), 10)
    sweeping.cancel()
    writer.close()


def standing(**state: Any) -> Connection:
    """A connection in some state, without a socket."""
    made = Connection.__new__(Connection)
    for name, value in state.items():
        setattr(made, name, value)
    return made


def test_a_head_has_ten_seconds_and_a_body_as_long_as_enough_of_it_comes() -> None:
    head = standing(waiting_since=100.0)
    assert not head.overdue(110.0)
    assert head.overdue(110.1)
    body = standing(waiting_since=100.0, in_body=True, body_bytes=0)
    assert not body.overdue(130.0)
    assert body.overdue(130.1)
    body.body_bytes = 60 * 1024
    assert not body.overdue(160.0)
    assert body.overdue(160.1)
    assert not standing(waiting_since=0.0, in_body=True).overdue(1e9), "nothing is awaited"


def test_a_client_is_stalled_when_it_has_taken_nothing_at_all_for_thirty_seconds() -> None:
    unread, flow = [90_000], SimpleNamespace(write_paused=True)
    slow = standing(flow=flow, transport=SimpleNamespace(get_write_buffer_size=lambda: unread[0]))
    for now in range(100, 200, 25):
        assert not slow.stalled(float(now))
        unread[0] -= 1
    assert not slow.stalled(200.0)
    assert not slow.stalled(230.0)
    assert slow.stalled(230.1)
    flow.write_paused = False
    assert not slow.stalled(300.0)
    flow.write_paused = True
    assert not slow.stalled(301.0), "it kept up meanwhile"


async def test_a_connection_that_asks_for_nothing_any_more_is_ended_and_a_busy_one_kept(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[Connection] = set()
    begun = Connection.on_message_begin

    def noted(self: Connection) -> None:
        seen.add(self)
        self.timeout_keep_alive = 1
        begun(self)

    monkeypatch.setattr(Connection, "on_message_begin", noted)
    sweeping = asyncio.create_task(sweep(lambda: seen))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() - began < 1.5:
        writer.write(request("/"))
        await reader.readuntil(b"{}")
        await asyncio.sleep(0.1)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    sweeping.cancel()
    writer.close()


async def test_who_is_turned_away_at_the_door_is_answered_in_turn_and_may_call_again(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nfull"

    class Door:
        gate = SimpleNamespace(guarded=True)

        def __call__(self, target: bytes, headers: object) -> bytes | None:
            return full if target == b"/full" else None

        def waits(self, tell: Callable[[], None]) -> bool:
            # Every second one is told later.
            self.asked += 1
            if self.asked % 2:
                asyncio.get_running_loop().call_later(0.01, tell)
            return bool(self.asked % 2)

        def again(self, message: bytes) -> None:
            return None

        def remember(self, message: bytes, target: bytes, headers: object, body: int) -> None:
            pass

        asked = 0

    monkeypatch.setattr(Connection, "door", Door())
    last = OURS + b"connection: close\r\n\r\n{}"
    # Its body is dropped, whatever is in it, and the next call on the connection is read as ever.
    assert await exchanged(port, request("/full") * 2 + request("/", close=True)) == full * 2 + last
    assert await exchanged(port, request("/full", close=True)) == full
    # Nobody overtakes an answer that is under way; a page is nobody's call.
    both = await exchanged(port, request("/ahead") + request("/full", close=True))
    assert both.count(b"HTTP/1.1 200 OK") == 2
    assert both.endswith(last)
    page = request("/full", close=True).replace(b"POST", b"GET")
    assert await exchanged(port, page) == last
