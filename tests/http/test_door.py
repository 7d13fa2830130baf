"""The door of a worker: a call that is turned away again, with the same head, is answered without being read again."""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace
from typing import Any, cast

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.http.connection import Connection
from gateway.http.door import Door
from gateway.http.errors import Dialect
from gateway.http.gate import Gate
from gateway.http.plane import Api, DataPlane
from gateway.ids import RequestIds
from gateway.pipeline.ports import Keys

HOT = b"/v1/chat/completions"


class Nobody:
    """Knows nobody."""

    def known(self, credential: str) -> object | None:
        return None


class App:
    """Its calls never end: who is let in is seen by `begun`."""

    def __init__(self) -> None:
        self.hot = {HOT: self}
        self.begun: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.begun.append(scope["raw_path"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name, default)

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Worker:
    """One connection to a worker that is full until `full` is cleared; `read` counts the messages that were parsed."""

    def __init__(self, *, remembers: bool = True) -> None:
        self.full: set[int] = {1}
        self.gate = Gate(cast("Keys", Nobody()), late_ms=100, most_calls=1, refused=lambda _: None)
        self.gate.guarded = True
        plane = SimpleNamespace(exchanges={}, running=self.full, new_id=RequestIds().pair)
        api = Api("chat", Dialect.OPENAI, cast("Any", None))
        self.door = Door(self.gate, cast("DataPlane", plane), {HOT.decode(): api})
        if not remembers:
            self.door.remember = lambda *_: None  # type: ignore[method-assign,misc]
        self.app = App()
        config = uvicorn.Config(self.app, http=Connection, ws="none", lifespan="off", log_config=None)  # type: ignore[arg-type]
        config.load()
        state = SimpleNamespace(connections=set(), tasks=set(), total_requests=0, default_headers=[])
        self.connection = connection = Connection(config, cast("Any", state), {})
        self.wire = Wire()
        connection.connection_made(self.wire)
        connection.door = self.door
        self.read = 0
        begun = connection.on_message_begin

        def counted() -> None:
            self.read += 1
            begun()

        connection.on_message_begin = counted  # type: ignore[method-assign]
        connection.parser = type(connection.parser)(connection)  # type: ignore[call-arg]

    def send(self, *pieces: bytes) -> None:
        for each in pieces:
            if not self.wire.closed:
                self.connection.data_received(each)

    def told(self) -> list[bytes]:
        """The status lines, in order."""
        return re.findall(rb"HTTP/1\.1 \d+ [A-Za-z ]+", b"".join(self.wire.written))


def call(body: bytes = b"{}", *, key: bytes = b"k", more: bytes = b"", target: bytes = HOT) -> bytes:
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n%bContent-Length: %d\r\n\r\n"
    return head % (target, key, more, len(body)) + body


async def test_a_head_that_was_turned_away_is_not_read_again_while_the_flood_lasts() -> None:
    worker = Worker()
    for _ in range(6):
        worker.send(call())
    assert worker.told() == [b"HTTP/1.1 503 Service Unavailable"] * 6
    # The first of a connection is always read, the second is remembered.
    assert worker.read == 2
    ids = {each.partition(b"x-request-id: ")[2][:36] for each in worker.wire.written}
    assert len(ids) == 6
    worker.gate.note(worker.gate._looked_at + 1, 0.0, 0)  # pyright: ignore[reportPrivateUsage]
    assert not worker.gate.guarded
    assert worker.door.again(call()) is None


async def test_who_is_let_in_is_read_whatever_is_known_of_its_head() -> None:
    worker = Worker()
    worker.send(call(), call(), call())
    read = worker.read
    worker.full.clear()
    worker.send(call(b"[]"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert worker.app.begun == [HOT]
    assert worker.read == read + 1
    assert worker.told()[-1].startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "other",
    [
        [call()[:-1], call()[-1:]],
        [call() + call()],
        [call(b"{ }")],
        [call(key=b"l")],
        [call(more=b"X: " + b"y" * 3000 + b"\r\n")],
        [
            call().replace(
                b"Content-Length: 2\r\n\r\n{}", b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
            )
        ],
    ],
    ids=["in pieces", "two at once", "longer", "of another key", "a long head", "in chunks"],
)
async def test_anything_else_is_read_and_the_next_call_as_ever(other: list[bytes]) -> None:
    worker = Worker()
    worker.send(call(), call())
    before = worker.read
    worker.send(*other)
    assert worker.read > before
    worker.send(call(more=b"Connection: close\r\n"))
    assert set(worker.told()) == {b"HTTP/1.1 503 Service Unavailable"}
    assert len(worker.told()) == 3 + sum(each.count(b"POST ") for each in other)
    assert worker.wire.closed


MESSAGES = [
    call(),
    call(),
    call(b"{ }"),
    call(b"a\r\n\r\nb"),
    call(b"a\r\n\r\n" + call()),
    call(key=b"l"),
    call(target=b"/elsewhere"),
    call().replace(b"POST", b"GET "),
    call(more=b"Content-Length: 2\r\n"),
    call(more=b"Expect: 100-continue\r\n"),
    b"\r\n" + call(),
    call().replace(b"\r\n", b"\n"),
    call().replace(b"Content-Length: 2\r\n\r\n{}", b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    call(more=b"Connection: close\r\n"),
    b"nonsense\r\n\r\n",
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(MESSAGES), min_size=2, max_size=8), st.data())
def test_whatever_comes_is_answered_as_where_all_is_read(messages: list[bytes], data: st.DataObject) -> None:
    pieces: list[bytes] = []
    for each in messages:
        cut = data.draw(st.sampled_from([0, 0, 0, 5, len(each) // 2, len(each) - 1]))
        pieces += [each[:cut], each[cut:]] if cut else [each]
    joined = data.draw(st.integers(0, len(pieces) - 1))
    pieces[joined : joined + 2] = [b"".join(pieces[joined : joined + 2])]

    async def told(*, remembers: bool) -> tuple[list[bytes], list[bytes], bool]:
        worker = Worker(remembers=remembers)
        for each in pieces:
            worker.send(each)
            for _ in range(4):
                await asyncio.sleep(0)
        return worker.told(), worker.app.begun, worker.wire.closed

    assert asyncio.run(told(remembers=True)) == asyncio.run(told(remembers=False))
