"""A byte proxy that hurts on demand: for gateway to upstream, to PostgreSQL and to Redis, over TCP and unix sockets.

    async with FaultProxy(upstream=("127.0.0.1", 5432)) as proxy:    # or upstream="/run/pg/.s.PGSQL.5432"
        proxy.latency(0.1, jitter=0.02)
        proxy.freeze()
        proxy.heal()

Toxics apply to connections that are already open; nothing is reordered or lost except by reset, close or freeze.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol, Self

from tests.faults.http11 import send_reset

Address = tuple[str, int] | str | os.PathLike[str]
Direction = Literal["both", "up", "down"]  # up: towards the upstream; down: back to the client

_BLOCK: Final = 65536
_HELD: Final = 64  # blocks in flight in one direction, so that a slow link pushes back


@dataclass(slots=True)
class Toxics:
    """What is done to one direction, read for every block."""

    latency: float = 0.0
    jitter: float = 0.0
    slice: int = 0
    gap: float = 0.0
    bytes_per_second: float = 0.0
    limit_bytes: int | None = None  # FIN after so many bytes of a connection
    reset_bytes: int | None = None  # RST after so many bytes of a connection
    close_delay: float = 0.0


class FaultProxy:
    """Listens, connects onwards for every connection, and applies the toxics of each direction."""

    def __init__(self, *, upstream: Address, listen: Address = ("127.0.0.1", 0), seed: int = 0) -> None:
        self.upstream = upstream
        self.listen = listen
        self.random = random.Random(seed)
        self.up, self.down = Toxics(), Toxics()
        self.bytes_up = self.bytes_down = 0
        self.accepted = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._changed = asyncio.Event()
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.refuse()
        self._flowing.set()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        """Where it listens (TCP)."""
        assert isinstance(self.listen, tuple), "this proxy listens on a unix socket"
        return self.listen[1]

    @property
    def open_links(self) -> int:
        """Connections that are open now."""
        return len(self._links)

    # toxics

    def _of(self, direction: Direction) -> list[Toxics]:
        self._changed.set()
        self._changed = asyncio.Event()
        return {"both": [self.up, self.down], "up": [self.up], "down": [self.down]}[direction]

    def latency(self, seconds: float, *, jitter: float = 0.0, direction: Direction = "both") -> None:
        """Every block arrives so much later, give or take a seeded jitter, in order."""
        for toxics in self._of(direction):
            toxics.latency, toxics.jitter = seconds, jitter

    def slicer(self, size: int = 1, *, gap: float = 0.0, direction: Direction = "both") -> None:
        """Write in pieces of `size` bytes, each on its own."""
        for toxics in self._of(direction):
            toxics.slice, toxics.gap = size, gap

    def bandwidth(self, bytes_per_second: float, *, direction: Direction = "both") -> None:
        """No faster than this."""
        for toxics in self._of(direction):
            toxics.bytes_per_second = bytes_per_second

    def limit_data(self, size: int | None, *, direction: Direction = "down") -> None:
        """Close each connection after so many bytes."""
        for toxics in self._of(direction):
            toxics.limit_bytes = size

    def reset_after(self, size: int | None, *, direction: Direction = "down") -> None:
        """Reset each connection after so many bytes."""
        for toxics in self._of(direction):
            toxics.reset_bytes = size

    def slow_close(self, seconds: float, *, direction: Direction = "both") -> None:
        """Pass the end of a connection on only after a while."""
        for toxics in self._of(direction):
            toxics.close_delay = seconds

    def freeze(self) -> None:
        """Forward nothing, not even an end; sockets stay open and new ones are accepted."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Forward again, what was held first."""
        self._flowing.set()

    def reset(self) -> None:
        """RST on both sides of every open connection, now."""
        for link in list(self._links):
            link.reset()

    def heal(self) -> None:
        """Take every toxic off. The listener stays as it is."""
        for direction in ("up", "down"):
            setattr(self, direction, Toxics())
        self._of("both")
        self.thaw()

    async def refuse(self) -> None:
        """Close the listener and reset what is open: connecting is refused until `accept`."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        if not isinstance(self.listen, tuple):
            Path(self.listen).unlink(missing_ok=True)
        self.reset()
        await asyncio.sleep(0)

    async def accept(self) -> None:
        """Open the listener, on the same address as before."""
        if self._server is not None:
            return
        if isinstance(self.listen, tuple):
            host, port = self.listen
            self._server = await asyncio.start_server(self._take, host, port, backlog=512)
            self.listen = (host, self._server.sockets[0].getsockname()[1])
        else:
            Path(self.listen).unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._take, self.listen)

    # links

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if isinstance(self.upstream, tuple):
                onward = await asyncio.open_connection(*self.upstream)
            else:
                onward = await asyncio.open_unix_connection(self.upstream)
        except OSError:
            send_reset(writer.transport)
            return
        link = _Link((reader, writer), onward)
        if self._server is None:  # refused while the onward connection was being made
            link.reset()
            return
        self._links.add(link)
        try:
            await link.run(self._pump)
        finally:
            self._links.discard(link)

    async def _pump(
        self, link: _Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, up: bool
    ) -> None:
        """Read blocks and note when each is due; the writer's half keeps order and time."""
        held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_HELD)
        reading = asyncio.ensure_future(self._read(link, source, held, up=up))
        writing = asyncio.ensure_future(self._write(link, held, sink, up=up))
        try:
            # A writer that ends first has nobody left to write to: reading on would fill the queue and wait.
            await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
            if not writing.done():
                await writing
        finally:
            reading.cancel()
            writing.cancel()

    async def _read(
        self, link: _Link, source: asyncio.StreamReader, held: asyncio.Queue[tuple[float, bytes]], *, up: bool
    ) -> None:
        clock = asyncio.get_running_loop().time
        data = b"-"
        while data:
            try:
                data = await source.read(_BLOCK)
            except ConnectionError:
                await self._flowing.wait()
                link.reset()
                data = b""  # the writer has to hear of the end, too
            toxics = self.up if up else self.down
            late = toxics.latency + self.random.uniform(-toxics.jitter, toxics.jitter)
            await held.put((clock() + max(late, 0.0), data))

    async def _write(
        self, link: _Link, held: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter, *, up: bool
    ) -> None:
        clock = asyncio.get_running_loop().time
        passed = 0
        try:
            while True:
                due, data = await held.get()
                if (wait := due - clock()) > 0:
                    await asyncio.sleep(wait)
                await self._flowing.wait()
                if not data:
                    await asyncio.sleep((self.up if up else self.down).close_delay)
                    if sink.can_write_eof() and not sink.is_closing():
                        sink.write_eof()
                    return
                view = memoryview(data)
                while view:
                    await self._flowing.wait()
                    toxics = self.up if up else self.down
                    if self._cut(link, toxics, passed):
                        return
                    piece = view[: self._piece(toxics, passed, len(view))]
                    view = view[len(piece) :]
                    passed += len(piece)
                    self._count(len(piece), up=up)
                    sink.write(bytes(piece))
                    await sink.drain()
                    await self._pace(toxics, len(piece))
                if self._cut(link, self.up if up else self.down, passed):
                    return
        except ConnectionError:
            link.reset()

    def _cut(self, link: _Link, toxics: Toxics, passed: int) -> bool:
        """Reset or close a link that has passed as many bytes as its toxics allow."""
        if toxics.reset_bytes is not None and passed >= toxics.reset_bytes:
            link.reset()
            return True
        if toxics.limit_bytes is not None and passed >= toxics.limit_bytes:
            link.close()
            return True
        return False

    def _piece(self, toxics: Toxics, passed: int, left: int) -> int:
        size = left
        for limit in (toxics.limit_bytes, toxics.reset_bytes):
            if limit is not None:
                size = min(size, limit - passed)
        if toxics.slice:
            size = min(size, toxics.slice)
        if toxics.bytes_per_second:
            size = min(size, max(int(toxics.bytes_per_second / 50), 1))
        return max(size, 1)

    async def _pace(self, toxics: Toxics, size: int) -> None:
        wait = toxics.gap
        if toxics.bytes_per_second:
            wait += size / toxics.bytes_per_second
        if wait:
            # A change of toxics ends the wait, so that heal() is felt at once on a crawling link.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), wait)
        elif toxics.slice:
            await asyncio.sleep(0)

    def _count(self, size: int, *, up: bool) -> None:
        if up:
            self.bytes_up += size
        else:
            self.bytes_down += size


_Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Pump(Protocol):
    async def __call__(
        self, link: _Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, up: bool
    ) -> None: ...


class _Link:
    """A client's connection and ours onwards."""

    def __init__(self, client: _Ends, onward: _Ends) -> None:
        self._client, self._onward = client, onward

    async def run(self, pump: _Pump) -> None:
        """Pump both ways until both have ended; an end of one way leaves the other open."""
        try:
            await asyncio.gather(
                pump(self, self._client[0], self._onward[1], up=True),
                pump(self, self._onward[0], self._client[1], up=False),
            )
        finally:
            self.close()

    def reset(self) -> None:
        """RST on both sides."""
        for _, writer in (self._client, self._onward):
            if not writer.transport.is_closing():
                send_reset(writer.transport)

    def close(self) -> None:
        """FIN on both sides."""
        for _, writer in (self._client, self._onward):
            writer.close()
