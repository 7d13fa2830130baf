"""Waves of a hundred prompts of 1 MiB at once, with thirty streams beside them whose callers leave after 5 MiB.

Every prompt must be answered with 200 and every stream must have begun with it; whoever is cut is one more row in the ledger.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from dataclasses import dataclass

from bench.cells import Cell
from bench.loader import PATH, Loader
from gateway.seed import ENDPOINT

PROMPTS, STREAMS = 100, 30
CUT_AFTER = 5 << 20
_TOKENS = 40_000
"""Far more than a caller takes: an event has some 250 bytes."""


@dataclass(slots=True)
class Waves:
    """What came of them."""

    prompts: int = 0
    cut: int = 0
    seconds: float = 0.0


async def waves(loader: Loader, port: int, keys: list[str], prompt: str, seconds: float) -> Waves:
    """Wave after wave for so long; raises RuntimeError where anything was not answered."""
    told = Waves()
    cell = Cell("flood", PROMPTS, False, "", "prompts of 1 MiB")
    began = time.perf_counter()
    while time.perf_counter() < began + seconds:
        streams = [asyncio.create_task(_cut(port, key)) for key in itertools.islice(keys, STREAMS)]
        done = await loader.run(cell, port, seconds=120, most=PROMPTS, bodies=[prompt])
        await asyncio.gather(*streams)
        if done["failed"] or done["calls"] != PROMPTS:
            raise RuntimeError(f"{done['failed']} prompts failed: {done['quotes']}")
        told.prompts += PROMPTS
        told.cut += STREAMS
    told.seconds = time.perf_counter() - began
    return told


async def _cut(port: int, key: str) -> None:
    """Take a stream's first 5 MiB, and leave."""
    body = json.dumps(
        {
            "model": ENDPOINT,
            "messages": [{"role": "user", "content": f"[[tokens={_TOKENS}]] Go on."}],
            "max_tokens": _TOKENS,
            "stream": True,
        }
    )
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.encode() + body.encode())
    first = await reader.read(1 << 16)
    size = len(first)
    while size < CUT_AFTER and (data := await reader.read(1 << 18)):
        size += len(data)
    writer.transport.abort()
    if b" 200 " not in first[:20] or size < CUT_AFTER:
        raise RuntimeError(f"a stream ended after {size:,} bytes: {first[:300]!r}")
