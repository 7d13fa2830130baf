"""Takes connections off a listening socket: many in one turn of the event loop, as many as have come.

uvloop's own server takes one a turn (libuv 1.45 and later), so that the longer turns are the fewer callers get in: under
overload they waited in the system's queue for seconds, and once it was full for the repetitions of their first packet, while the
worker saw no more of them than it could carry. Here they get in and can be turned away.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

AT_ONCE = 32
"""Connections taken in one turn; the rest in the next one, so that those who are in already are not kept waiting."""
PAUSE_SECONDS = 1.0
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

log = logging.getLogger(__name__)


class Acceptor:
    """Serves one listening socket; what uvicorn asks of a server."""

    def __init__(self, listening: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Begins at once; within a running event loop."""
        self._listening = listening
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[object]] = set()
        self._pause: asyncio.TimerHandle | None = None
        listening.setblocking(False)
        self._loop.add_reader(listening.fileno(), self._take)

    def close(self) -> None:
        """Take no more; what waits in the system's queue stays there for whoever else holds the socket."""
        if self._listening.fileno() < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listening.fileno())
        self._listening.close()

    async def wait_closed(self) -> None:
        """It is closed when `close` returns."""

    def _take(self) -> None:
        for _ in range(AT_ONCE):
            try:
                taken, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as exc:
                if exc.errno not in _EXHAUSTED:
                    raise
                log.warning(
                    "No more connections can be opened (%s); those that are open go on.", exc.strerror
                )
                self._loop.remove_reader(self._listening.fileno())
                self._pause = self._loop.call_later(PAUSE_SECONDS, self._again)
                return
            taken.setblocking(False)
            taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = self._loop.create_task(self._open(taken))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, taken: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, taken)
        except OSError:
            # Gone before it was served.
            taken.close()

    def _again(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listening.fileno(), self._take)
