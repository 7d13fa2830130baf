"""HTTP/1.1 on the server's side in bytes: heads, chunks, and how to end a connection rudely.

A unix socket has no RST: there a reset is an end without a goodbye.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Final

REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    429: "Too Many Requests",
}
STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
LAST_CHUNK: Final = b"0\r\n\r\n"


def plain_head(status: int, length: int, extra: str = "", content_type: str = "application/json") -> bytes:
    """Status line and headers of an answer with a length."""
    reason = REASONS.get(status, "Error")
    head = f"HTTP/1.1 {status} {reason}\r\nserver: uvicorn\r\ncontent-type: {content_type}\r\n"
    return f"{head}content-length: {length}\r\n{extra}\r\n".encode()


def send_reset(transport: asyncio.WriteTransport) -> None:
    """Close a TCP connection with RST; a unix socket has none and is cut without a goodbye."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        # A connection that the peer has reset already has no socket left to set anything on.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def http_chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)
