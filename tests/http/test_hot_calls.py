"""Hot calls: begun by their connection once they are whole, by uvicorn where they come in pieces or ahead of their turn."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.http.answering import answer_whole, lines_of
from gateway.http.connection import BODY, TASK, Connection
from tests.http.listening import exchanged, listening


async def hot(scope: Any, receive: Any, send: Any) -> None:
    """Answers how it was begun, and with what body."""
    whole = BODY in scope
    assert not whole or scope[TASK] is asyncio.current_task()
    begun_with = body = scope.get(BODY, b"")
    more = True
    while more and not whole:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    if body == b"wait":
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return
    told = b"%s %d %d" % (b"whole" if whole else b"pieces", len(begun_with), len(body))
    headers = [(b"content-length", b"%d" % len(told))]
    if not answer_whole(scope, lines_of(headers), told):
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": told})


class App:
    """Its connections find /hot by themselves; anything else is answered in uvicorn's way, by the same words."""

    hot = {b"/hot": hot}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await hot(scope, receive, send)


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with listening(App()) as found:
        yield found


def hot_call(body: bytes, *, close: bool = False, path: bytes = b"/hot") -> bytes:
    end = b"Connection: close\r\n" if close else b""
    return b"POST %b HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (path, end, len(body), body)


@pytest.mark.parametrize("body", [b"", b"1234", b"x" * 9_000])
async def test_a_hot_call_begins_once_it_is_whole(port: int, body: bytes) -> None:
    answer = await exchanged(port, hot_call(body, close=True))
    assert answer.endswith(b"whole %d %d" % (len(body), len(body)))
    assert answer.count(b"connection: close") == 1


async def test_a_hot_call_in_chunks_is_put_together(port: int) -> None:
    head = b"POST /hot HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = await exchanged(port, head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert answer.endswith(b"whole 5 5")


async def test_a_hot_call_whose_body_comes_later_begins_before_it(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = hot_call(b"0123456789", close=True)
    writer.write(sent[:-7])
    await asyncio.sleep(0.05)
    writer.write(sent[-7:])
    assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"pieces 0 10")
    writer.close()


async def test_hot_calls_sent_at_once_are_answered_in_their_order(port: int) -> None:
    sent = hot_call(b"1") + hot_call(b"22") + hot_call(b"333", path=b"/cold") + hot_call(b"4444", close=True)
    answer = await exchanged(port, sent)
    assert answer.count(b"HTTP/1.1 200 OK") == 4
    assert [int(each.split(b"HTTP")[0]) for each in answer.split(b"whole 1 ")[1].split(b"pieces 0 ")] == [
        1,
        2,
        3,
        4,
    ]


async def test_a_connection_carries_one_hot_call_after_another(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for size in (1, 2, 3):
        writer.write(hot_call(b"x" * size))
        assert await asyncio.wait_for(reader.readuntil(b"whole %d %d" % (size, size)), 5)
    writer.write(hot_call(b"x", path=b"/cold"))
    assert await asyncio.wait_for(reader.readuntil(b"pieces 0 1"), 5)
    writer.close()


async def test_a_hot_call_whose_client_leaves_is_told(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Connection] = []
    made = Connection.connection_made

    def noted(self: Connection, transport: asyncio.Transport) -> None:
        seen.append(self)
        made(self, transport)

    monkeypatch.setattr(Connection, "connection_made", noted)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(hot_call(b"wait"))
    async with asyncio.timeout(5):
        while not seen or seen[0].cycle is None:  # type: ignore[redundant-expr]
            await asyncio.sleep(0.01)
        scope: Any = seen[0].scope
        gone = asyncio.Event()
        seen[0].on_left = gone.set
        writer.close()
        await gone.wait()
    assert seen[0].lost
    scope[TASK].cancel()
    await asyncio.wait([scope[TASK]])


@pytest.mark.parametrize("started", [False, True])
def test_a_call_that_gets_no_answer_is_told_so_and_ends_its_connection(started: bool) -> None:
    wrote: list[bytes] = []
    transport = SimpleNamespace(write=wrote.append, close=lambda: wrote.append(b"closed"))
    cycle = SimpleNamespace(
        response_complete=False, disconnected=False, response_started=started, transport=transport
    )
    Connection.leave(SimpleNamespace(), SimpleNamespace(__self__=cycle))  # type: ignore[arg-type]
    assert wrote[-1] == b"closed"
    assert [each[:12] for each in wrote[:-1]] == ([] if started else [b"HTTP/1.1 500"])


def test_nobody_is_told_whose_client_is_gone() -> None:
    cycle = SimpleNamespace(response_complete=False, disconnected=True, response_started=False)
    Connection.leave(SimpleNamespace(), SimpleNamespace(__self__=cycle))  # type: ignore[arg-type]
    assert not cycle.response_started


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST /hot HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 64 + b"\r\n", b"431"),
        (b"POST /hot HTTP/1.1\r\nHost: x\r\nLong: " + b"b" * (33 << 10) + b"\r\n\r\n", b"431"),
        (b"POST /hot HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcnonsense", b"400"),
    ],
)
async def test_a_hot_call_that_makes_no_sense_is_refused(port: int, sent: bytes, status: bytes) -> None:
    assert (await exchanged(port, sent)).startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize("body", [b"1234", b"wait"])
async def test_a_connection_that_is_lost_leaves_nothing_for_the_collector(
    port: int, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was set aside meanwhile would never go."""
    seen: list[weakref.ref[Connection]] = []
    made = Connection.connection_made

    def noted(self: Connection, transport: asyncio.Transport) -> None:
        seen.append(weakref.ref(self))
        made(self, transport)

    monkeypatch.setattr(Connection, "connection_made", noted)
    gc.disable()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(hot_call(body))
        if body == b"wait":
            async with asyncio.timeout(5):
                while (running := _task_of(seen)) is None:
                    await asyncio.sleep(0.01)
            writer.close()
            await asyncio.sleep(0.05)
            running.cancel()
            await asyncio.wait([running])
            del running
        else:
            await asyncio.wait_for(reader.readuntil(b"whole 4 4"), 5)
            writer.close()
        async with asyncio.timeout(5):
            while seen[0]() is not None:
                await asyncio.sleep(0.01)
    finally:
        gc.enable()


def _task_of(seen: list[weakref.ref[Connection]]) -> asyncio.Task[Any] | None:
    connection = seen[0]() if seen else None
    return None if connection is None or not connection.scope else connection.scope.get(TASK)  # type: ignore[return-value]
