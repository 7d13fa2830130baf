"""The wire between a client and a server: what the server sends may come changed, in crumbs, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Self

Change = Callable[[int, bytes], bytes | None]
"""From where a piece stands among all that was sent, and the piece, to what comes of it; None ends the connection."""


class Wire:
    """Takes connections on a port of its own and passes them on; `open` are those that live."""

    def __init__(self, port: int, change: Change = lambda _, data: data, *, crumbs: bool = False) -> None:
        self._to = port
        self._change = change
        self._crumbs = crumbs
        self.open = 0
        self.sent = 0
        """Bytes that came from the server of the last connection."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def all_gone(self) -> None:
        """Wait until no connection is left."""
        async with asyncio.timeout(10):
            while self.open:
                await asyncio.sleep(0.002)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.sent = 0
        back, out = await asyncio.open_connection("127.0.0.1", self._to)
        up = asyncio.create_task(self._up(reader, out))
        try:
            while data := await back.read(1 << 16):
                changed = self._change(self.sent, data)
                self.sent += len(data)
                if changed is None:
                    break
                if self._crumbs:
                    for each in range(len(changed)):
                        writer.write(changed[each : each + 1])
                        await asyncio.sleep(0)
                else:
                    writer.write(changed)
                    await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
            await up
            self.open -= 1

    async def _up(self, reader: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        """The client's own bytes, untouched; its end is the connection's."""
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                out.write(data)
                await out.drain()
        out.close()
