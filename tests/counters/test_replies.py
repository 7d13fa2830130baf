"""Who asked Redis gets the reply to what it asked, in time, late or never; nobody gets another's."""

from __future__ import annotations

import asyncio
import time
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import hiredis
import pytest

from gateway.counters.address import RedisAddress
from gateway.counters.connection import Connection


class Asker:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def answered(self, reply: Any) -> None:
        self.told.append(reply)

    def failed(self) -> None:
        self.told.append("no reply in time")

    def late(self, reply: Any) -> None:
        self.told.append(("late", reply))


class Wire:
    """A connection that is ready, to a server that says what the test says."""

    def __init__(self) -> None:
        self.lost = 0
        address = RedisAddress.parse("redis://127.0.0.1:1")
        self.connection = Connection(
            address, (), timeout_seconds=0.01, on_ready=lambda _: None, on_lost=self._lost
        )
        self.connection.connection_made(
            SimpleNamespace(write=lambda _: None, abort=lambda: self.connection.connection_lost(None))  # type: ignore[arg-type]
        )
        self.connection.ready = True

    async def ask(self, *questions: bytes) -> list[Asker]:
        """In one turn of the loop."""
        askers = [Asker() for _ in questions]
        for question, asker in zip(questions, askers, strict=True):
            self.connection.send(question, asker)
        await asyncio.sleep(0)
        return askers

    def _lost(self) -> None:
        self.lost += 1


async def failed(asker: Asker) -> None:
    async with asyncio.timeout(20):
        while not asker.told:
            await asyncio.sleep(0.002)


async def test_a_reply_that_comes_late_is_not_given_to_the_next_who_asks() -> None:
    wire = Wire()
    one, two = await wire.ask(b"1", b"2")
    await failed(two)
    three, four = await wire.ask(b"3", b"4")
    wire.connection.data_received(b"+one\r\n+two\r\n+three\r\n+four\r\n")
    assert one.told == ["no reply in time", ("late", b"one")]
    assert two.told == ["no reply in time", ("late", b"two")]
    assert (three.told, four.told) == ([b"three"], [b"four"])
    assert not wire.lost


@pytest.mark.parametrize("at", range(1, 20))
async def test_replies_are_told_apart_wherever_the_wire_cuts_them(at: int) -> None:
    wire = Wire()
    [slow] = await wire.ask(b"1")
    await failed(slow)
    askers = await wire.ask(b"2", b"3")
    sent = b"$4\r\nslow\r\n+two\r\n:3\r\n"
    wire.connection.data_received(sent[:at])
    wire.connection.data_received(sent[at:])
    assert [each.told[-1] for each in (slow, *askers)] == [("late", b"slow"), b"two", 3]


async def test_of_a_connection_that_breaks_everybody_hears_once_that_nobody_knows() -> None:
    wire = Wire()
    [slow] = await wire.ask(b"1")
    await failed(slow)
    [under_way] = await wire.ask(b"2")
    wire.connection.drop()
    assert slow.told == ["no reply in time", ("late", None)]
    assert under_way.told == ["no reply in time", ("late", None)]
    assert wire.lost == 1


async def test_a_server_that_says_more_than_it_was_asked_is_left() -> None:
    wire = Wire()
    [asker] = await wire.ask(b"1")
    wire.connection.data_received(b"+one\r\n+of nobody\r\n")
    assert asker.told == [b"one"]
    assert wire.lost == 1


async def test_a_reply_that_waits_at_the_door_is_read_before_anybody_is_told_that_there_is_none() -> None:
    wire = Wire()
    [asker] = await wire.ask(b"1")
    # The loop has no turn for so long.
    time.sleep(0.02)
    wire.connection._look(False)  # pyright: ignore[reportPrivateUsage]
    wire.connection.data_received(b"+one\r\n")
    assert asker.told == [b"one"]


async def test_a_new_connection_says_who_it_is_and_which_database_it_wants_before_anything_else() -> None:
    asked: list[list[bytes]] = []
    ready: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        while data := await reader.read(4096):
            parser.feed(data)
            while (told := parser.gets()) is not False:
                asked.append(told)
                writer.write(b"$10\r\nrun_id:abc\r\n" if told[0] == b"INFO" else b"+OK\r\n")
        writer.close()

    with TemporaryDirectory(prefix="wb-") as folder:
        server = await asyncio.start_unix_server(serve, f"{folder}/s")
        address = RedisAddress.parse(f"unix://{folder}/s?db=3&username=u&password=p")
        connection = Connection(address, (), on_ready=ready.append, on_lost=lambda: None)
        connection.start()
        async with asyncio.timeout(20):
            while not ready:
                await asyncio.sleep(0.002)
        await connection.stop()
        server.close()
    assert asked == [[b"AUTH", b"u", b"p"], [b"SELECT", b"3"], [b"INFO", b"server"]]
    assert ready == ["abc"]
