"""A worker seen from outside while something goes on: how long /healthz takes, and how late its event loop says that it was."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Self

from bench.open_loop import at

_BUCKET = re.compile(r'^weighbridge_event_loop_late_seconds_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE)


class Watched:
    """From its beginning to its end; its text is two cells of a table."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._took: list[float] = []
        self._turns: dict[float, float] = {}

    async def __aenter__(self) -> Self:
        self._before = await self._lateness()
        self._health = asyncio.create_task(self._ask_health())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._health.cancel()
        after = await self._lateness()
        self._turns = {edge: count - self._before[edge] for edge, count in after.items()}
        self._took.sort()

    def __str__(self) -> str:
        late = ", ".join(f"{self.late(share) * 1000:g}" for share in (0.99, 0.999, 1.0))
        return f"{at(self._took, 0.99):.1f}, {at(self._took, 1.0):.1f} | {late}"

    def late(self, share: float) -> float:
        """Seconds that so many turns were late by, at most: an edge of the metric's buckets."""
        every = max(self._turns.values(), default=0.0)
        return min((edge for edge, count in self._turns.items() if count >= share * every), default=0.0)

    async def _ask_health(self) -> None:
        """Fifty times a second, each time on a connection of its own, for ever."""
        while True:
            began = time.perf_counter()
            await self._get("/healthz")
            self._took.append(time.perf_counter() - began)
            await asyncio.sleep(max(0.0, began + 0.02 - time.perf_counter()))

    async def _lateness(self) -> dict[float, float]:
        page = (await self._get("/metrics")).decode()
        return {float(edge): float(count) for edge, count in _BUCKET.findall(page)}

    async def _get(self, path: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        return answer
