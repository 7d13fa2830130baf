"""The drainer's process: one on a host, beside the workers, on the same spools.

It says how it stands in `drainer.json` among the spools, once a second, for those who ask: readiness, metrics and
`weighbridge status`. SIGTERM lets it take what the workers left before it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import signal
import socket
from dataclasses import asdict
from pathlib import Path

import asyncpg

from gateway.counters.settler import CounterSettler
from gateway.settings import Settings, SettingsError
from gateway.spool.drainer import Drainer, DrainState
from gateway.store.ledger import PostgresBooks
from gateway.store.migrate import require_current

logger = logging.getLogger(__name__)

STATE_FILE = "drainer.json"
STATE_SECONDS = 1.0


async def run(settings: Settings) -> None:
    """Drain until SIGTERM or SIGINT; raises SchemaError, AnotherDrainer or SettingsError where it cannot."""
    url = settings.database_url
    if url is None:
        raise SettingsError(
            "The drainer needs WEIGHBRIDGE_DATABASE_URL; `weighbridge up` sets it for embedded stores."
        )
    settler = None if settings.redis_url is None else CounterSettler(settings.redis_url)
    books = PostgresBooks(url, host=socket.gethostname())
    drainer = Drainer(settings.spool_dir, books, settler)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    # Batches are many small objects and no cycles: looking for these at the usual pace costs a third of the time.
    gc.set_threshold(50_000, 20, 50)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    drainer.lock()
    try:
        await _until_current(url, stopping)
        if settler is not None:
            await settler.start()
        async with asyncio.TaskGroup() as tasks:
            telling = tasks.create_task(_tell(settings.spool_dir / STATE_FILE, drainer.state))
            ending = tasks.create_task(_stop_when(stopping, drainer))
            await drainer.run()
            telling.cancel()
            ending.cancel()
    finally:
        drainer.close()
        if settler is not None:
            await settler.stop()
        await books.close()


def read_state(spool_dir: Path) -> DrainState | None:
    """How this host's drainer stood at last; None if it never ran."""
    try:
        return DrainState(**json.loads((spool_dir / STATE_FILE).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


async def _until_current(url: str, stopping: asyncio.Event) -> None:
    """Wait for PostgreSQL, and refuse a schema that is not ours."""
    while not stopping.is_set():
        try:
            await require_current(url)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as exc:
            logger.error("the ledger cannot be reached yet (%s: %s)", type(exc).__name__, exc)  # noqa: TRY400 - expected
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), 1.0)
        else:
            return


async def _stop_when(stopping: asyncio.Event, drainer: Drainer) -> None:
    await stopping.wait()
    drainer.stop()


async def _tell(path: Path, state: DrainState) -> None:
    told = ""
    fresh = path.with_name(f".{path.name}")
    while True:
        text = json.dumps(asdict(state))
        if text != told:
            try:
                fresh.write_text(text + "\n")
                fresh.replace(path)
                told = text
            except OSError as exc:
                logger.warning("%s cannot be written: %s", path, exc.strerror)
        await asyncio.sleep(STATE_SECONDS)
