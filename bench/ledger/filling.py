"""Posts the bench's rows through the drainer's own posting path, and says how fast; begun again, it goes on where it was."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import asyncpg

from bench.ledger.traffic import DAY_MS, DAYS, Traffic
from gateway.spool.books import Posting
from gateway.spool.drainer import BATCH
from gateway.store.ledger import PostgresBooks

_TOLD_EVERY = 100_000


def _begin(batches: Iterator[list[Posting]]) -> asyncio.Task[list[Posting]]:
    """Have the next batch made beside the loop; an empty one after the last."""
    return asyncio.create_task(asyncio.to_thread(lambda: next(batches, [])))


async def fill(
    owner: asyncpg.Connection,
    books: PostgresBooks,
    traffic: Traffic,
    rows: int,
    until_ms: int,
    say: Callable[[str], None],
    batch_size: int = BATCH,
) -> float:
    """Post `rows` requests over the days before `until_ms`; rows a second, or 0 where they were there."""
    await owner.execute(
        "SELECT gateway.make_partitions($1, $2)",
        datetime.fromtimestamp((until_ms - (DAYS + 1) * DAY_MS) / 1000, UTC),
        datetime.fromtimestamp((until_ms + DAY_MS) / 1000, UTC),
    )
    there = await owner.fetchval("SELECT count(*) FROM gateway.requests") or 0
    if there >= rows:
        return 0.0
    seen = posted = told = 0
    began = last = time.monotonic()
    batches = traffic.days(rows, until_ms, batch_size)
    ahead = _begin(batches)
    while batch := await ahead:
        # Made while the server posts the one before.
        ahead = _begin(batches)
        seen += len(batch)
        if seen <= there:
            continue
        posted += len(await books.post(batch, []))
        if posted - told >= _TOLD_EVERY:
            now = time.monotonic()
            say(f"{seen:,} of {rows:,} rows; {(posted - told) / (now - last):,.0f} a second")
            told, last = posted, now
    return posted / (time.monotonic() - began) if posted else 0.0
