"""The port through which adapters reach an upstream.

Caps hold against hostile upstreams: a whole answer is at most 32 MiB, a stream is handed over in pieces as they
arrive. Every failure is an EngineError; a transport never retries.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

MAX_ANSWER = 32 << 20
Resolve = Callable[[str, int], Awaitable[str]]
"""From a host and a port to the one IP address that is connected to; raises EngineError for one that must not be."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect, to the first byte of the answer, between bytes, and in all."""

    connect: float = 5.0
    first_byte: float = 60.0
    between: float = 30.0
    total: float = 600.0


class Response(msgspec.Struct, frozen=True, gc=False):
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class OpenResponse(Protocol):
    """An answer whose body is still arriving."""

    status: int
    headers: Mapping[str, str]

    async def read(self) -> bytes:
        """The next piece as it arrived, b"" at a proper end; raises EngineError."""
        ...

    async def pump(self, take: Callable[[bytes], bool]) -> bool:
        """Hand each piece to `take` as it arrives until that says False; True at a proper end of the body.

        A piece that is there is handed over in the very callback that read it: no task wakes up for it. Raises
        EngineError, and whatever `take` raises.
        """
        ...

    async def rest(self) -> bytes:
        """All that is left, capped; for error bodies."""
        ...

    def let_go(self) -> None:
        """What matters was read: the connection is kept where the body ends at once, and dropped otherwise."""
        ...

    def close(self) -> None:
        """Drop the connection unless the body was read to its end; returns at once, may be called twice."""
        ...


class Transport(Protocol):
    """One upstream address."""

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Awaitable[Response]:
        """Send and read the whole answer."""
        ...

    async def open(self, path: str, body: bytes, headers: Mapping[str, str]) -> OpenResponse:
        """Send and return as soon as the head of the answer is there."""
        ...

    async def get(self, path: str) -> Response:
        """Fetch a small page (health, metrics)."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...
