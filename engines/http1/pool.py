"""The connections to one upstream: the one used last is used first, idle ones end after a while.

One timer watches all limits of all calls, so that a call costs none. A connection on which anything waits to be read
while it is idle is never used again: it was closed, or speaks unasked.
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from collections.abc import Callable
from functools import partial

from engines.beats import until_beat
from engines.errors import ConnectFailed, TimedOut
from engines.http1.address import Address
from engines.http1.connection import Connection
from engines.http1.tls import Tls
from engines.http1.turns import Turns
from engines.transport import Resolve

IDLE_SECONDS = 15.0
MOST_IDLE = 256
READ_BYTES = 1 << 16
ANSWERS_A_TURN = 2
"""How many answers that have much to give are read in a turn of the loop."""
_TRUSTED_SECONDS = 1.0
"""An idle connection is looked at before use when it was idle for longer: upstreams close theirs after seconds."""


class Pool:
    """Gives out connections; `limits` are seconds to the first byte, between bytes and in all."""

    def __init__(
        self,
        address: Address,
        *,
        connect: float,
        limits: tuple[float, float, float],
        max_answer: int,
        resolve: Resolve | None = None,
    ) -> None:
        self._address = address
        self._resolve = resolve
        self._connect_seconds = connect
        self._limits = limits
        self._max_answer = max_answer
        self._idle: deque[Connection] = deque()
        self._busy: set[Connection] = set()
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(READ_BYTES))
        """What all connections read into: it is parsed before the next one reads."""
        self._turns = Turns(self._loop, ANSWERS_A_TURN)
        # Called for each read with a hint of its size, which getattr takes for its default: so no frame of Python is needed.
        self._get_buffer: Callable[[int], memoryview] = partial(getattr, self, "_buffer")  # type: ignore[assignment]
        self._timer: asyncio.TimerHandle | None = None
        self._period = max(0.01, min(1.0, *(each / 8 for each in limits)))

    @property
    def open(self) -> tuple[int, int]:
        """(in use, idle)."""
        return len(self._busy), len(self._idle)

    def idle(self) -> Connection | None:
        """A connection that is open and free, or None."""
        now = self._loop.time()
        while self._idle:
            connection = self._idle.pop()
            trusted = now - connection.idle_since < _TRUSTED_SECONDS
            if not connection.closed and (trusted or not _spoken(connection)):
                self._busy.add(connection)
                return connection
            connection.abort()
        return None

    async def connect(self) -> Connection:
        """A new connection; raises ConnectFailed or TimedOut."""
        address = self._address
        try:
            async with asyncio.timeout(self._connect_seconds):
                if address.unix is not None:
                    _, connection = await self._loop.create_unix_connection(self._make, address.unix)
                else:
                    host = address.host
                    if self._resolve is not None:
                        # What was looked at is what is connected to: the name is not resolved again.
                        host = await self._resolve(host, address.port)
                    if address.tls:
                        _, tls = await self._loop.create_connection(self._make_tls, host, address.port)
                        connection = await tls.shake_hands(address.host)
                    else:
                        _, connection = await self._loop.create_connection(self._make, host, address.port)
        except TimeoutError as exc:
            raise TimedOut("connect") from exc
        except (OSError, ValueError) as exc:  # an SSLError is the one, a name that cannot be one the other
            raise ConnectFailed(type(exc).__name__) from exc
        if connection.closed:
            raise ConnectFailed("closed at once")
        self._busy.add(connection)
        if self._timer is None:
            self._timer = self._loop.call_later(until_beat(self._period), self._watch)
        return connection

    def close(self) -> None:
        """End every connection; calls under way fail."""
        for connection in [*self._busy, *self._idle]:
            connection.abort()
        self._busy.clear()
        self._idle.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _make(self) -> Connection:
        return Connection(
            self._loop, self._buffer, self._get_buffer, self._released, self._max_answer, self._turns
        )

    def _make_tls(self) -> Tls[Connection]:
        return Tls(self._loop, self._buffer, self._make())

    def _released(self, connection: Connection, reusable: bool) -> None:
        self._busy.discard(connection)
        if reusable and len(self._idle) < MOST_IDLE:
            connection.idle_since = self._loop.time()
            self._idle.append(connection)
        elif reusable:
            connection.abort()
        elif connection in self._idle:
            self._idle.remove(connection)

    def _watch(self) -> None:
        now = self._loop.time()
        for connection in list(self._busy):
            connection.expire(now, *self._limits)
        while self._idle and now - self._idle[0].idle_since > IDLE_SECONDS:
            self._idle[0].abort()
        again = self._busy or self._idle
        self._timer = self._loop.call_later(until_beat(self._period), self._watch) if again else None


def _spoken(connection: Connection) -> bool:
    """Whether anything waits to be read, its end included."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))
