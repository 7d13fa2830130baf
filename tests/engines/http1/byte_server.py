"""An upstream that answers every call with exactly the bytes and the ends that a test wants.

Steps: bytes are sent, a number is a pause in seconds, FIN ends our half, RST resets, HOLD waits until the peer has gone, CUT
ends the socket without TLS's farewell.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from collections.abc import Sequence
from typing import Final, Self

FIN: Final = "FIN"
RST: Final = "RST"
HOLD: Final = "HOLD"
CUT: Final = "CUT"
Step = bytes | float | str


class ByteServer:
    """Answers each call with `steps`; `calls` holds what came, `connections` counts them."""

    def __init__(
        self, steps: Sequence[Step], *, slice_bytes: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.steps = list(steps)
        self.slice_bytes = slice_bytes
        self.tls = tls
        self.calls: list[bytes] = []
        self.connections = 0
        self.gone = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 24, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while await self._read(reader):
                if not await self._answer(reader, writer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.gone.set()
            self._tasks.discard(task)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        self.calls.append(head + await reader.readexactly(length))
        return True

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        for step in self.steps:
            match step:
                case bytes():
                    await self._send(writer, step)
                case "FIN":
                    writer.close()
                    return False
                case "RST":
                    sock = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    writer.transport.abort()
                    return False
                case "CUT":
                    descriptor = writer.get_extra_info("socket").fileno()
                    with socket.socket(fileno=os.dup(descriptor)) as sock:
                        sock.shutdown(socket.SHUT_RDWR)
                    return False
                case "HOLD":
                    with contextlib.suppress(ConnectionError):
                        await reader.read(1)
                    return False
                case _:
                    await asyncio.sleep(float(step))
        return True

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        size = self.slice_bytes or len(data)
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
            if self.slice_bytes:
                # A turn of the loop between pieces: with TCP_NODELAY each is a packet of its own.
                await asyncio.sleep(0)
        await writer.drain()


def answer(body: bytes, *, status: bytes = b"200 OK", extra: bytes = b"") -> bytes:
    """A whole answer with its length."""
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), extra, body)


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n", extra: bytes = b"") -> bytes:
    """A whole answer in chunks."""
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n%b\r\n%b%b" % (extra, chunks, end)
