"""A pumped piece goes from the socket to its taker by one function of Python: a count that no noise moves."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from engines.errors import Garbled
from engines.http1.connection import Connection
from engines.http1.turns import Turns

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
PIECE = b"6\r\npiece.\r\n"


def nothing(*given: object) -> None:
    """What a transport would do."""


class Wire:
    """A connection whose transport does nothing, and what arrives on it."""

    def __init__(self, *, most: int = 1 << 20) -> None:
        self.buffer = memoryview(bytearray(1 << 16))
        self.released: list[bool] = []
        """What the pool was told: whether the connection may be used again."""
        self.unsent = 0
        get_buffer = partial(getattr, self, "buffer")
        loop = asyncio.get_running_loop()
        self.connection = Connection(
            loop, self.buffer, get_buffer, lambda _, again: self.released.append(again), most, Turns(loop, 1)
        )
        self.connection.connection_made(
            SimpleNamespace(  # type: ignore[arg-type]
                write=nothing,
                abort=nothing,
                pause_reading=nothing,
                resume_reading=nothing,
                is_closing=lambda: False,
                get_write_buffer_size=lambda: self.unsent,
            )
        )

    def arrives(self, data: bytes) -> None:
        buffer: Any = self.connection.get_buffer(len(data))
        buffer[: len(data)] = data
        self.connection.buffer_updated(len(data))


async def test_a_piece_takes_one_call_of_python() -> None:
    wire, calls = Wire(), 0
    answer = wire.connection.send(b"call", b"", whole=False)
    wire.arrives(HEAD)
    pumping = asyncio.create_task(answer.pump(len))
    await asyncio.sleep(0)
    wire.buffer[: len(PIECE)] = PIECE

    def count(frame: Any, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call" and "/engines/" in frame.f_code.co_filename

    connection, size = wire.connection, len(PIECE)
    sys.setprofile(count)
    try:
        connection.get_buffer(size)
        connection.buffer_updated(size)
    finally:
        sys.setprofile(None)
    assert calls == 1
    wire.arrives(b"0\r\n\r\n")
    assert await pumping


@pytest.mark.parametrize("at", range(1, len(PIECE)))
async def test_pieces_come_alike_wherever_they_are_cut(at: int) -> None:
    wire, got = Wire(), b""

    def take(piece: bytes) -> bool:
        nonlocal got
        got += piece
        return True

    answer = wire.connection.send(b"call", b"", whole=False)
    wire.arrives(HEAD + PIECE[:at])
    pumping = asyncio.create_task(answer.pump(take))
    await asyncio.sleep(0)
    wire.arrives(PIECE[at:] + PIECE + PIECE)
    wire.arrives(PIECE)
    wire.arrives(b"0\r\n\r\n")
    assert await pumping
    assert got == 4 * b"piece."
    assert answer.size == len(got)


async def test_what_follows_an_answer_unasked_is_none_of_its_body() -> None:
    wire = Wire()
    answer = wire.connection.send(b"call", b"", whole=True)
    wire.arrives(HEAD + PIECE + b"0\r\n\r\n" + HEAD + PIECE)
    assert answer.done
    assert answer.take() == b"piece."
    assert wire.connection.closed


async def test_a_taker_that_fails_ends_the_pump_with_its_failure() -> None:
    wire = Wire()

    def take(piece: bytes) -> bool:
        raise Garbled("no piece")

    answer = wire.connection.send(b"call", b"", whole=False)
    wire.arrives(HEAD)
    pumping = asyncio.create_task(answer.pump(take))
    await asyncio.sleep(0)
    wire.arrives(PIECE)
    with pytest.raises(Garbled, match="no piece"):
        await pumping
