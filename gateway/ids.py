"""Request ids: UUIDv7 (RFC 9562, section 5.7), made here and never taken from a client."""

from __future__ import annotations

import os
import time
from uuid import UUID


class RequestIds:
    """Makes time-ordered ids; random bits come from the kernel in blocks, a system call each 256 ids."""

    _BLOCK = 2560

    def __init__(self) -> None:
        self._pool = b""
        self._next = 0

    def make(self) -> bytes:
        """16 bytes: 48 bits of Unix milliseconds, version 7, 74 random bits."""
        at = self._next
        if at + 10 > len(self._pool):
            self._pool, at = os.urandom(self._BLOCK), 0
        self._next = at + 10
        tail = int.from_bytes(self._pool[at : at + 10], "big")
        head = (time.time_ns() // 1_000_000) << 80
        tail = (tail & ~(0xF << 76) & ~(0x3 << 62)) | (7 << 76) | (2 << 62)
        return (head | tail).to_bytes(16, "big")

    def pair(self) -> tuple[bytes, str]:
        """An id and its text."""
        made = self.make()
        return made, text(made)


def text(request_id: bytes) -> str:
    """The canonical text of an id."""
    hexed = request_id.hex()
    return f"{hexed[:8]}-{hexed[8:12]}-{hexed[12:16]}-{hexed[16:20]}-{hexed[20:]}"


def parse(value: str) -> bytes:
    """The 16 bytes of a canonical id; raises ValueError."""
    return UUID(value).bytes
