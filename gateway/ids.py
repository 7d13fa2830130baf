"""Request ids: UUIDv7 (RFC 9562, section 5.7), made here and never taken from a client."""

from __future__ import annotations

import os
import time
from uuid import UUID


class RequestIds:
    """Makes time-ordered ids; random bits come from the kernel in blocks, a system call each 64 ids."""

    _BLOCK = 640

    def __init__(self) -> None:
        self._tails: list[tuple[bytes, str]] = []
        """The ends of the ids to come, and their texts: made 64 at a time, which takes a fourth of making them one by one."""
        self._ms = 0
        self._head = b"", ""
        """The beginning of the ids of that millisecond."""

    def make(self) -> bytes:
        """16 bytes: 48 bits of Unix milliseconds, version 7, 74 random bits."""
        return self.pair()[0]

    def pair(self) -> tuple[bytes, str]:
        """An id and its text."""
        ms = time.time_ns() // 1_000_000
        if ms != self._ms:
            head = ms.to_bytes(6, "big")
            told = head.hex()
            self._ms, self._head = ms, (head, f"{told[:8]}-{told[8:]}-")
        if not self._tails:
            self._tails = _tails(os.urandom(self._BLOCK))
        head, told = self._head
        tail, rest = self._tails.pop()
        return head + tail, told + rest


def _tails(random: bytes) -> list[tuple[bytes, str]]:
    """What follows an id's milliseconds, as bytes and as text: version, 12 random bits, variant, 62 random bits."""
    made: list[tuple[bytes, str]] = []
    for at in range(0, len(random), 10):
        number = int.from_bytes(random[at : at + 10], "big")
        number = (number & ~(0xF << 76) & ~(0x3 << 62)) | (7 << 76) | (2 << 62)
        tail = number.to_bytes(10, "big")
        told = tail.hex()
        made.append((tail, f"{told[:4]}-{told[4:8]}-{told[8:]}"))
    return made


def text(request_id: bytes) -> str:
    """The canonical text of an id."""
    hexed = request_id.hex()
    return f"{hexed[:8]}-{hexed[8:12]}-{hexed[12:16]}-{hexed[16:20]}-{hexed[20:]}"


def parse(value: str) -> bytes:
    """The 16 bytes of a canonical id; raises ValueError."""
    return UUID(value).bytes
