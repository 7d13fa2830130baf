"""Whether the drainer keeps up: a worker settles at an even pace, the real drainer posts, and nothing may pile up."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from bench.ledger.timing import cpu_of
from gateway.spool.drainer import Drainer
from gateway.store.ledger import PostgresBooks

LATEST_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Drained:
    """What came of it."""

    appended: int
    seconds: float
    """From the first request to the last row."""
    behind_seconds: float
    """From the worker's end to the last row."""
    cpu_us: float
    """Of the drainer and its server process, a request."""

    @property
    def rate(self) -> float:
        """Requests a second that were in the ledger by the end."""
        return self.appended / self.seconds


async def drain(
    owner: asyncpg.Connection, books: PostgresBooks, spools: Path, rate: int, seconds: float
) -> Drained:
    """Run worker and drainer; raises RuntimeError where a request is missing or never arrives."""
    before = await owner.fetchval("SELECT coalesce(sum(requests), 0)::bigint FROM gateway.usage_day") or 0
    drainer = Drainer(spools, books)
    running = asyncio.create_task(drainer.run())
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bench.ledger.feeder",
        str(spools),
        str(rate),
        str(seconds),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        while drainer.state.posted == 0:
            await asyncio.sleep(0.01)
        began, before_cpu = time.monotonic(), await _cpu(owner)
        out, _ = await worker.communicate()
        appended, ended = int(out), time.monotonic()
        while drainer.state.posted < appended:
            if time.monotonic() - ended > LATEST_SECONDS:
                raise RuntimeError(f"{appended - drainer.state.posted} of {appended} requests did not arrive")
            await asyncio.sleep(0.01)
        last, spent = time.monotonic(), await _cpu(owner) - before_cpu
    finally:
        drainer.stop()
        await running
    after = await owner.fetchval("SELECT sum(requests)::bigint FROM gateway.usage_day") or 0
    if after - before != appended:
        raise RuntimeError(f"{appended} requests were settled, {after - before} were counted")
    return Drained(appended, last - began, last - ended, spent * 1e6 / appended)


async def _cpu(owner: asyncpg.Connection) -> float:
    pid = await owner.fetchval(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'weighbridge-drainer'"
    )
    return time.process_time() + cpu_of(pid)
