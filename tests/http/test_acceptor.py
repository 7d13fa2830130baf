"""Connections are taken as they have come, however long the event loop's turns are."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from typing import cast

import pytest
import pytest_asyncio

from gateway.http import acceptor
from gateway.http.acceptor import AT_ONCE, Acceptor

CALLERS = 200


class Served(asyncio.Protocol):
    """Sees that it was connected, and answers with what it is sent."""

    every: list[Served]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        type(self).every.append(self)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


@pytest_asyncio.fixture
async def listening() -> AsyncIterator[socket.socket]:
    Served.every = []
    with socket.create_server(("127.0.0.1", 0), backlog=CALLERS) as made:
        yield made
    for each in Served.every:
        each.transport.close()


def callers(port: int, count: int) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]


async def test_all_who_wait_are_taken_within_a_few_turns(listening: socket.socket) -> None:
    waiting = callers(listening.getsockname()[1], CALLERS)
    serving = Acceptor(listening, Served)
    turns = 0
    while len(Served.every) < CALLERS:
        await asyncio.sleep(0)
        turns += 1
    # Some turns pass until a connection is open; one taken in each would be two hundred and more.
    assert turns < CALLERS // 4 + CALLERS // AT_ONCE
    reader, writer = await asyncio.open_connection(sock=waiting[-1])
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    writer.close()
    taken = Served.every[0].transport.get_extra_info("socket")
    assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    number = listening.fileno()
    serving.close()
    serving.close()
    await serving.wait_closed()
    assert not asyncio.get_running_loop().remove_reader(number)
    for each in waiting[:-1]:
        each.close()


async def test_out_of_descriptors_it_waits_and_goes_on(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Exhausted(socket.socket):
        left = 2

        def accept(self) -> tuple[socket.socket, object]:
            if Exhausted.left:
                Exhausted.left -= 1
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    monkeypatch.setattr(acceptor, "PAUSE_SECONDS", 0.01)
    limited = Exhausted(fileno=listening.detach())
    serving = Acceptor(limited, Served)
    [caller] = callers(limited.getsockname()[1], 1)
    async with asyncio.timeout(20):
        while not Served.every:
            await asyncio.sleep(0.01)
    assert not Exhausted.left
    serving.close()
    caller.close()


async def test_out_of_descriptors_it_tries_once_a_pause_and_no_more_once_it_is_closed(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Exhausted(socket.socket):
        tried = 0

        def accept(self) -> tuple[socket.socket, object]:
            Exhausted.tried += 1
            raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(acceptor, "PAUSE_SECONDS", 3600.0)
    limited = Exhausted(fileno=listening.detach())
    serving = Acceptor(limited, Served)
    [caller] = callers(limited.getsockname()[1], 1)
    async with asyncio.timeout(20):
        while not Exhausted.tried:
            await asyncio.sleep(0.01)
    for _ in range(10):
        await asyncio.sleep(0)
    assert Exhausted.tried == 1
    pause = serving._pause  # pyright: ignore[reportPrivateUsage]
    assert pause is not None
    serving.close()
    assert pause.cancelled()
    caller.close()


async def test_a_caller_that_left_before_it_was_taken_keeps_nobody_waiting(listening: socket.socket) -> None:
    class Left(socket.socket):
        once = True

        def accept(self) -> tuple[socket.socket, object]:
            if Left.once:
                Left.once = False
                raise OSError(errno.ECONNABORTED, "Software caused connection abort")
            return super().accept()

    port = listening.getsockname()[1]
    serving = Acceptor(Left(fileno=listening.detach()), Served)
    [caller] = callers(port, 1)
    async with asyncio.timeout(20):
        while not Served.every:
            await asyncio.sleep(0.01)
    serving.close()
    caller.close()
