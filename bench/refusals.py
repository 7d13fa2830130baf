"""How long an administrative change waits for the audit's chain while refusals pour in: `python -m bench.refusals`.

A worker's trail is told of 5,000 refusals a second by 500 principals, ten each, so that every one is a record of its own
(nothing is dearer); the drainer seals them beside. Changes are made meanwhile, each timed from its first statement to
its commit, first with nothing else going on.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
from sqlalchemy import text

from gateway.embedded.postgres import EmbeddedPostgres
from gateway.spool.drainer import Drainer
from gateway.spool.writer import SpoolWriter
from gateway.store import audit, audit_check, database
from gateway.store.ledger import PostgresBooks
from gateway.store.migrate import upgrade
from gateway.store.refusals import RefusalSeals
from gateway.telemetry import Telemetry
from gateway.trail import RefusalTrail

KEY = b"b" * 32
PRINCIPALS = 500
BETWEEN_SECONDS = 0.1
LATEST_SECONDS = 60.0
_COUNT = text("SELECT count(*) FROM gateway.audit_refusals")


@click.command()
@click.option("--rate", default=5_000, help="Refusals a second.")
@click.option("--seconds", default=20.0, help="How long each half takes.")
def main(rate: int, seconds: float) -> None:
    """Print how long changes took, quiet and under the flood."""
    home = Path(tempfile.mkdtemp(prefix="wb-bench-"))
    home.chmod(0o711)
    try:
        asyncio.run(_run(home, rate, seconds))
    finally:
        shutil.rmtree(home, ignore_errors=True)


async def _run(home: Path, rate: int, seconds: float) -> None:
    server = EmbeddedPostgres(home)
    await server.start()
    try:
        await upgrade(await server.create_database("bench"))
        url = server.url(database="bench")
        quiet = await _changes(url, seconds)
        context = multiprocessing.get_context("spawn")
        drainer = context.Process(target=_drain, args=(home / "spool", url), daemon=True)
        told: Any = context.Value("q", 0)
        flood = context.Process(target=_flood, args=(home / "spool", rate, seconds + 4, told), daemon=True)
        for each in (drainer, flood):
            each.start()
        await asyncio.sleep(3.0)
        flooded = await _changes(url, seconds)
        await asyncio.to_thread(flood.join)
        behind = await _sealed(url, told.value)
        drainer.terminate()
        pool = database.engine(url, size=1)
        async with pool.connect() as connection:
            verdict = await audit_check.verify(connection, KEY)
        await pool.dispose()
        assert verdict.problem is None, verdict
        click.echo(
            f"{verdict.refusals:,} refusals sealed in {verdict.entries:,} entries, the last {behind:.1f} s after the flood;"
            " the chain holds"
        )
        for name, times in (("quiet", quiet), (f"{rate:,} refusals/s", flooded)):
            waits, times = sorted(each[0] for each in times), sorted(each[1] for each in times)
            click.echo(
                f"{name:>18}: {len(times)} changes, median {statistics.median(times):.1f} ms,"
                f" 99th of 100 {times[len(times) * 99 // 100]:.1f} ms, longest {times[-1]:.1f} ms;"
                f" of it the wait for the chain: median {statistics.median(waits):.1f} ms, longest {waits[-1]:.1f} ms"
            )
    finally:
        await server.stop()


async def _sealed(url: str, told: int) -> float:
    """Wait until every refusal is sealed; seconds."""
    pool, began = database.engine(url, size=1), time.monotonic()
    async with pool.connect() as connection:
        while await connection.scalar(_COUNT) < told:
            assert time.monotonic() < began + LATEST_SECONDS, "the drainer does not keep up"
            await asyncio.sleep(0.1)
    await pool.dispose()
    return time.monotonic() - began


async def _changes(url: str, seconds: float) -> list[tuple[float, float]]:
    """Milliseconds that each change waited for the chain, and took in all."""
    pool = database.engine(url, size=1)
    times: list[tuple[float, float]] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.perf_counter()
        async with pool.begin() as connection:
            start = time.perf_counter()
            # As `append` does first; asked for twice it is held at once.
            await connection.execute(audit.HOLD)
            waited = time.perf_counter() - start
            await audit.append(
                connection, key=KEY, actor="a", action="limit.update", object_kind="limit", object_id="l",
                before={"amount": 1}, after={"amount": 2},
            )  # fmt: skip
        times.append((waited * 1000, (time.perf_counter() - began) * 1000))
        await asyncio.sleep(BETWEEN_SECONDS)
    await pool.dispose()
    return times


def _flood(root: Path, rate: int, seconds: float, whole: Any) -> None:
    telemetry = cast("Telemetry", SimpleNamespace(refused=len))
    with SpoolWriter(root) as spool:
        trail = RefusalTrail(telemetry, spool)
        began, told, busy = time.monotonic(), 0, 0.0
        while (now := time.monotonic()) < began + seconds:
            due = int((now - began) * rate)
            start = time.perf_counter()
            for number in range(told, due):
                trail.refused(f"principal-{number % PRINCIPALS}", "chat", "permission_denied")
            busy += time.perf_counter() - start
            told = due
            trail.tick()
            time.sleep(0.01)
        trail.tick(last=True)
        whole.value = told
        print(f"{told:,} refusals, {busy / told * 1e6:.1f} us each in the worker", flush=True)


def _drain(root: Path, url: str) -> None:
    async def run() -> None:
        pool: Any = database.engine(url, size=1)
        await Drainer(root, PostgresBooks(url, host="bench"), seals=RefusalSeals(pool, KEY)).run()

    asyncio.run(run())


if __name__ == "__main__":
    main()
