"""The pipelined connection, on the event loop that workers run on: what leaves when."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing
from typing import Any

import pytest
import uvloop

from gateway.counters.address import RedisAddress
from gateway.counters.connection import TOGETHER, Connection


class Sender:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def answered(self, reply: Any) -> None:
        self.told.append(reply)

    def failed(self) -> None:
        self.told.append("failed")

    def late(self, reply: Any) -> None:
        self.told.append(("late", reply))


def test_a_command_that_stays_alone_leaves_in_the_next_turn_and_others_a_few_at_once_in_their_order() -> None:
    mine, theirs = socket.socketpair()
    theirs.setblocking(False)

    async def test() -> None:
        connection = Connection(
            RedisAddress.parse("redis://127.0.0.1"), (), timeout_seconds=60, on_ready=lambda _: None, on_lost=lambda: None
        )  # fmt: skip
        await asyncio.get_running_loop().create_unix_connection(lambda: connection, sock=mine)
        connection.ready = True
        senders = [Sender() for _ in range(2 * TOGETHER + 2)]
        commands = [b"%d." % number for number in range(2 * TOGETHER + 2)]
        connection.send(commands[0], senders[0])
        with pytest.raises(BlockingIOError):
            theirs.recv(100)
        await asyncio.sleep(0)
        assert theirs.recv(100) == commands[0]

        for command, sender in zip(commands[1:], senders[1:], strict=True):
            connection.send(command, sender)
        assert theirs.recv(100) == b"".join(commands[1 : 1 + 2 * TOGETHER])
        await asyncio.sleep(0)
        assert theirs.recv(100) == commands[-1]

        connection.data_received(b"".join(b"+%d\r\n" % number for number in range(2 * TOGETHER + 2)))
        assert [each.told for each in senders] == [[b"%d" % number] for number in range(2 * TOGETHER + 2)]
        connection.drop()

    with closing(theirs), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())
