"""`python -m bench.ledger`: fill a ledger through the drainer's posting path, then time the reports and drain into it.

Prints what was asked beside what was measured; ends with 1 where it does not hold, or the roll-ups differ from the rows.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from bench.ledger.draining import Drained, drain
from bench.ledger.filling import fill
from bench.ledger.population import population, write
from bench.ledger.timing import QUESTIONS, Timed, timed
from bench.ledger.traffic import DAY_MS, Traffic
from gateway.embedded.postgres import EmbeddedPostgres
from gateway.store.ledger import PostgresBooks
from gateway.store.migrate import upgrade

ASKED_RATE = 1_000
_DIFFERENCE = """
SELECT coalesce(sum(r), 0)::bigint, coalesce(sum(c), 0)::bigint FROM (
    SELECT count(*) AS r, sum(cost_nano_usd) AS c FROM gateway.requests
    UNION ALL SELECT -sum(requests), -sum(cost_nano_usd) FROM gateway.usage_day
) AS summed
"""


def say(words: str) -> None:
    """To the person who waits."""
    print(words, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.ledger", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="ledger rows (10,000,000)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to drain (30)")
    parser.add_argument("--home", type=Path, help="keep the ledger there, and go on with what is there")
    return parser.parse_args()


async def bench(options: argparse.Namespace, home: Path) -> bool:
    """Fill, time, drain, check; whether all that is asked held."""
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o711)
    async with EmbeddedPostgres(home) as server:
        await upgrade(server.url("weighbridge_owner"))
        owner = await asyncpg.connect(server.url("weighbridge_owner"))
        books = PostgresBooks(server.url(), host="bench")
        people = population()
        await write(owner, people)
        until = _until(home)
        speed = await fill(owner, books, Traffic(people), options.rows, until, say)
        say("Timing the reports")
        last = await owner.fetchval(
            "SELECT max(period) FROM gateway.usage_day WHERE period < $1",
            datetime.fromtimestamp(until / 1000, UTC),
        )
        times = [await timed(server.url("weighbridge_auditor"), each, last) for each in QUESTIONS]
        say(f"Draining {ASKED_RATE:,} settled requests a second for {options.seconds:.0f} s")
        with tempfile.TemporaryDirectory() as spools:
            drained = await drain(owner, books, Path(spools), ASKED_RATE, options.seconds)
        say("Comparing the roll-up with the rows")
        differences = tuple(await owner.fetchrow(_DIFFERENCE, timeout=600))
        sizes = await owner.fetchrow(
            "SELECT (SELECT count(*) FROM gateway.requests), (SELECT count(*) FROM gateway.usage_day),"
            " (SELECT count(*) FROM gateway.usage_hour), pg_size_pretty(pg_database_size(current_database()))",
            timeout=600,
        )
        await books.close()
        await owner.close()
    if differences != (0, 0):
        say(f"The roll-up differs from the rows: {differences}")
        return False
    return _told(speed, sizes, times, drained)


def _told(speed: float, sizes: asyncpg.Record, times: list[Timed], drained: Drained) -> bool:
    load = " ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"{sizes[0]:,} requests, {sizes[1]:,} sums by day, {sizes[2]:,} by hour, {sizes[3]}; load {load}")
    if speed:
        print(f"posted {speed:,.0f} rows a second")
    print(f"{'':<44}{'asked':>9}{'first':>9}{'best':>9}{'CPU':>9}{'rows':>8}")
    for each in times:
        asked = "" if each.question.asked_seconds is None else f"< {each.question.asked_seconds:g} s"
        print(
            f"{each.question.what:<44}{asked:>9}{each.first:>8.2f}s{each.best:>8.2f}s{each.cpu:>8.2f}s{each.rows:>8,}"
        )
    kept_up = drained.rate >= ASKED_RATE * 0.97
    print(
        f"{'settled requests drained':<44}{ASKED_RATE:>7,}/s{drained.rate:>7,.0f}/s"
        f"   {drained.appended:,} in {drained.seconds:.1f} s, the last {drained.behind_seconds:.2f} s after the worker's end;"
        f" {drained.cpu_us:.0f} us of CPU each, drainer and server"
    )
    return all(each.held for each in times) and kept_up


def _until(home: Path) -> int:
    """The end of the ninety days, the same when the bench goes on."""
    note = home / "until"
    if not note.exists():
        today = datetime.fromtimestamp(time.time(), UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        note.write_text(str(int(today.timestamp() * 1000)))
    return int(note.read_text()) // DAY_MS * DAY_MS


def main() -> None:
    """Run it in a home of its own, or in the one that is named."""
    options = _options()
    # As the drainer's process has it.
    gc.set_threshold(50_000, 20, 50)
    home = options.home or Path(tempfile.mkdtemp(prefix="wb-books-"))
    try:
        held = asyncio.run(bench(options, home))
    finally:
        if options.home is None:
            shutil.rmtree(home, ignore_errors=True)
    raise SystemExit(0 if held else 1)


if __name__ == "__main__":
    main()
