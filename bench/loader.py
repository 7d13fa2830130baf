"""The load generator's process, and orders to it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from bench.cells import Cell, bodies
from bench.processors import pinned
from gateway.seed import ENDPOINT

PATH = "/v1/chat/completions"
ROOT = Path(__file__).parents[1]


class Loader:
    """One load generator; one order at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, keys: Path, *cores: int) -> Loader:
        """Start it on these cores."""
        with pinned(*cores):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "bench.load", str(keys),
                cwd=ROOT,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
        return cls(process)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def stop(self) -> None:
        """End it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._process.wait()

    async def run(self, cell: Cell, port: int, *, seconds: float, most: int, **more: Any) -> dict[str, Any]:
        """Load `port` with the cell's calls for so long, or for so many calls.

        `more`: `headers` and `key` that another server takes, other `bodies`, `ramp` seconds to open connections in.
        """
        return await self._order(cell, port, {"seconds": seconds, "most": most, **more})

    async def offer(self, cell: Cell, port: int, phases: list[tuple[float, float]]) -> dict[str, Any]:
        """Offer (calls a second, seconds), phase after phase, whether they are answered or not."""
        return await self._order(cell, port, {"phases": phases})

    async def touch_every_key(self, cell: Cell, port: int, **more: Any) -> dict[str, Any]:
        """Call once with each key, as a gateway that has been up for a while has seen them all."""
        return await self._order(cell, port, {"seconds": 300, "each_key_once": True, **more})

    async def _order(self, cell: Cell, port: int, more: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {
            "port": port,
            "path": PATH,
            "bodies": [each.decode() for each in bodies(cell, ENDPOINT)],
            "stream": cell.stream,
            "concurrency": cell.concurrency,
            **more,
        }
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load generator ended; its error is above")
        return json.loads(line)
