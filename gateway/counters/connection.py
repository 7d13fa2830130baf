"""One pipelined connection to Redis: the commands of a turn of the event loop leave in pairs, none waits for another's answer.

Answers are matched in order, so a command that timed out keeps its place: what Redis did about it is told when the
late answer comes, or, with the connection gone, that nobody knows. Nothing is ever sent twice from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, cast

import hiredis

from gateway.counters.address import RedisAddress
from gateway.counters.lua import Script, command

_log = logging.getLogger(__name__)

CONNECT_SECONDS = 2.0
HANDSHAKE_SECONDS = 1.0
_LONGEST_PAUSE = 0.5
_GRACE = 0.003
TOGETHER = 2
"""So many commands leave at once: with the others of a long turn they would leave after all that it still begins."""


class RedisAway(Exception):
    """Redis did not answer in time, or there is no connection."""


class Asked(Protocol):
    """Whoever sent a command; told of exactly one of `answered` and `failed`."""

    def answered(self, reply: Any) -> None:
        """The reply, in time; an error reply is a `hiredis.ReplyError` value."""
        ...

    def failed(self) -> None:
        """No reply in time, or the connection broke; the command may or may not have taken effect."""
        ...

    def late(self, reply: Any) -> None:
        """After `failed`: the reply came after all; None when the connection is gone and nobody knows."""
        ...


class Answer:
    """A command whose reply is awaited."""

    __slots__ = ("future",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[Any] = loop.create_future()

    def answered(self, reply: Any) -> None:
        """Hand the reply over; an error reply is raised."""
        if not self.future.done():
            if isinstance(reply, hiredis.ReplyError):
                self.future.set_exception(reply)
            else:
                self.future.set_result(reply)

    def failed(self) -> None:
        """Raise RedisAway in whoever waits."""
        if not self.future.done():
            self.future.set_exception(RedisAway("Redis did not answer in time"))

    def late(self, reply: Any) -> None:
        """Nobody waits any more."""


class Connection(asyncio.Protocol):
    """Keeps one connection open, and open again after each loss.

    `prepare` runs on each new connection before `ready` is called; commands of others are not sent until then.
    """

    def __init__(
        self,
        address: RedisAddress,
        scripts: tuple[Script, ...],
        *,
        timeout_seconds: float = 0.020,
        on_ready: Callable[[str], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._address = address
        self._scripts = scripts
        self._timeout = timeout_seconds
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._reader = hiredis.Reader()
        self._out: list[bytes] = []
        self._waiting: deque[Asked] = deque()
        self._overdue: deque[Asked] = deque()
        self._batches: deque[list[float]] = deque()
        self._unsent = 0
        self._flushing = False
        self._timer: asyncio.TimerHandle | None = None
        self._closed: asyncio.Event = asyncio.Event()
        self._closed.set()
        self._stopping = False
        self._keeper: asyncio.Task[None] | None = None
        self.ready = False
        """Whether commands may be sent."""
        self.run_id = ""

    def start(self) -> None:
        """Begin to connect; never fails, `ready` says when it has worked."""
        self._keeper = asyncio.create_task(self._keep(), name="redis-connection")

    async def stop(self) -> None:
        """Close for good."""
        self._stopping = True
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        self.drop()
        await asyncio.sleep(0)

    def drop(self) -> None:
        """Close this connection; another is opened unless stopped."""
        if self._transport is not None:
            self._transport.abort()

    def send(self, data: bytes, asked: Asked) -> None:
        """Send one command in the loop's next turn, or with the next few."""
        self._out.append(data)
        self._waiting.append(asked)
        self._unsent += 1
        if self._unsent >= TOGETHER:
            self._write()
        elif not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def ask(self, data: bytes) -> asyncio.Future[Any]:
        """Send one command and await its reply; raises RedisAway or the error that Redis replied."""
        answer = Answer(self._loop)
        if self._transport is None:
            answer.failed()
        else:
            self.send(data, answer)
        return answer.future

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.WriteTransport", transport)
        self._reader = hiredis.Reader()
        self._closed.clear()

    def data_received(self, data: bytes) -> None:
        """Match replies with those who asked, in order."""
        reader, waiting = self._reader, self._waiting
        batches = self._batches
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not False:
                if self._overdue:
                    self._overdue.popleft().late(reply)
                    continue
                batch = batches[0]
                batch[1] -= 1
                if not batch[1]:
                    batches.popleft()
                waiting.popleft().answered(reply)
        except (hiredis.ProtocolError, IndexError):
            _log.error("Redis at %s sent what is no reply; connecting anew", self._address)
            self.drop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everyone who waited that nobody knows."""
        self._transport = None
        was_ready, self.ready = self.ready, False
        overdue, waiting = list(self._overdue), list(self._waiting)
        self._overdue.clear()
        self._waiting.clear()
        self._batches.clear()
        self._out.clear()
        self._unsent = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for each in overdue:
            each.late(None)
        for each in waiting:
            each.failed()
            each.late(None)
        self._closed.set()
        if was_ready:
            self._on_lost()

    # private

    def _flush(self) -> None:
        self._flushing = False
        self._write()

    def _write(self) -> None:
        if self._transport is None or not self._unsent:
            return
        self._transport.write(b"".join(self._out))
        self._out.clear()
        timeout = self._timeout if self.ready else HANDSHAKE_SECONDS
        self._batches.append([self._loop.time() + timeout, self._unsent])
        self._unsent = 0
        if self._timer is None:
            self._timer = self._loop.call_at(self._batches[0][0], self._look, False)

    def _look(self, again: bool) -> None:
        self._timer = None
        if not self._batches:
            return
        due = self._batches[0][0]
        if due > self._loop.time():
            self._timer = self._loop.call_at(due, self._look, False)
        elif not again:
            # The loop itself may have been busy with the reply already at the door: let it read once more.
            self._timer = self._loop.call_later(_GRACE, self._look, True)
        else:
            _, count = self._batches.popleft()
            late = [self._waiting.popleft() for _ in range(int(count))]
            self._overdue.extend(late)
            for each in late:
                each.failed()
            self._look(False)

    async def _keep(self) -> None:
        pause = 0.05
        while not self._stopping:
            try:
                await self._connect()
                pause = 0.05
                await self._closed.wait()
            except (OSError, TimeoutError, RedisAway, hiredis.ReplyError, ssl.SSLError) as error:
                _log.warning("Redis at %s cannot be used: %s", self._address, error)
                self.drop()
                await self._closed.wait()
            if not self._stopping:
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - spreads the workers, guards nothing
                pause = min(_LONGEST_PAUSE, pause * 2)

    async def _connect(self) -> None:
        where = self._address
        async with asyncio.timeout(CONNECT_SECONDS):
            if where.path is not None:
                await self._loop.create_unix_connection(lambda: self, where.path)
            else:
                context = ssl.create_default_context() if where.tls else None
                await self._loop.create_connection(
                    lambda: self, where.host or "127.0.0.1", where.port, ssl=context
                )
        commands: list[bytes] = []
        if where.password is not None:
            login = (where.username.encode(),) if where.username else ()
            commands.append(command(b"AUTH", *login, where.password.encode()))
        if where.database:
            commands.append(command(b"SELECT", b"%d" % where.database))
        for each in commands:
            await self.ask(each)
        information = await self.ask(command(b"INFO", b"server"))
        self.run_id = _run_id(information)
        for script in self._scripts:
            # Where loading is forbidden the first call sends the text, which makes the digest known as well.
            with contextlib.suppress(hiredis.ReplyError):
                await self.ask(command(b"SCRIPT", b"LOAD", script.text))
        if self._timer is not None:
            # Set for the greetings' longer time-out; what comes now has a shorter one.
            self._timer.cancel()
            self._timer = None
        self.ready = True
        self._on_ready(self.run_id)


def _run_id(information: bytes) -> str:
    for line in information.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"run_id":
            return value.decode()
    raise RedisAway("Redis does not tell its run id: the user of the gateway needs the command INFO")
