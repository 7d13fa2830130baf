"""The drainer's process: one on a host, beside the workers, on the same spools.

It says how it stands in `drainer.json` among the spools, once a second, for those who ask: readiness, metrics and
`weighbridge status`. Beside it, events are raised from what was posted, and sent. SIGTERM lets it take what the
workers left before it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import signal
import socket
from pathlib import Path

import msgspec

from engines.beats import beat, until_beat
from gateway.counters.earlier import EarlierSpend
from gateway.counters.settler import CounterSettler
from gateway.errors import Unavailable
from gateway.events.credits import CreditWatch
from gateway.events.opening import Openings
from gateway.events.sender import WebhookSender
from gateway.events.thresholds import ThresholdWatch
from gateway.events.usage import UsageFeed
from gateway.events.waiting import look
from gateway.security.sealing import Sealing
from gateway.security.secrets import MasterKey, Purpose, SecretError, load_master_key
from gateway.settings import Settings, SettingsError
from gateway.spool.books import Away
from gateway.spool.drainer import Drainer, DrainState
from gateway.spool.poster import now_ms
from gateway.store import database
from gateway.store.catalog import FollowedCatalog
from gateway.store.ledger import PostgresBooks
from gateway.store.migrate import require_current
from gateway.store.refusals import RefusalSeals
from gateway.store.sql_calls import DeadCalls
from gateway.upkeep import keep_up
from policies.budgets import Budget

logger = logging.getLogger(__name__)

STATE_FILE = "drainer.json"
STATE_SECONDS = 1.0
EVENTS_SECONDS = 0.75
"""Between looks at what events and credits there are: counters follow a credit within a second."""
EVENTS_AT_LEAST_SECONDS = 10.0


async def run(settings: Settings) -> None:
    """Drain until SIGTERM or SIGINT; raises SchemaError, AnotherDrainer or SettingsError where it cannot."""
    url = settings.database_url
    if url is None:
        raise SettingsError(
            "The drainer needs WEIGHBRIDGE_DATABASE_URL; `weighbridge up` sets it for embedded stores."
        )
    settler = None if settings.redis_url is None else CounterSettler(settings.redis_url)
    books = PostgresBooks(url, host=socket.gethostname())
    try:
        master = load_master_key(settings.secret_file)
    except SecretError as exc:
        logger.error("no refusal is sealed, no event raised or sent: %s", exc)  # noqa: TRY400 - expected
        master = None
    chain = database.engine(url, application_name="weighbridge-audit", size=1)
    seals = None if master is None else RefusalSeals(chain, master.derive(Purpose.AUDIT_CHAIN))
    drainer = Drainer(settings.spool_dir, books, settler, seals, DeadCalls(books))
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
            beside = [
                tasks.create_task(_tell(settings.spool_dir / STATE_FILE, drainer.state)),
                tasks.create_task(_stop_when(stopping, drainer)),
            ]
            if master is not None:
                beside.append(tasks.create_task(_raise_and_send(settings, url, drainer.state, master, books)))
                key = master.derive(Purpose.AUDIT_CHAIN)
                beside.append(tasks.create_task(keep_up(settings, url, key)))
            await drainer.run()
            for each in beside:
                each.cancel()
    finally:
        drainer.close()
        if settler is not None:
            await settler.stop()
        await books.close()
        await chain.dispose()


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
        except database.FAILED as exc:
            logger.error("the ledger cannot be reached yet (%s: %s)", type(exc).__name__, exc)  # noqa: TRY400 - expected
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), 1.0)
        else:
            return


async def _stop_when(stopping: asyncio.Event, drainer: Drainer) -> None:
    await stopping.wait()
    drainer.stop()


async def _raise_and_send(
    settings: Settings, url: str, state: DrainState, master: MasterKey, books: PostgresBooks
) -> None:
    """Raise the events of budgets from what is posted, and send what webhooks are owed, while the drainer runs."""
    catalog = FollowedCatalog(url)
    engine = database.engine(url, application_name="weighbridge-events", size=2)

    def budgets() -> tuple[Budget, ...]:
        return () if catalog.latest is None else catalog.latest.budgets

    watch = ThresholdWatch(engine, budgets, chain_key=master.derive(Purpose.AUDIT_CHAIN), now_ms=now_ms)
    counters = None if settings.redis_url is None else EarlierSpend(settings.redis_url)
    openings = None if counters is None else Openings(engine, counters, budgets, now_ms=now_ms)
    credited = None if counters is None else CreditWatch(engine, counters, budgets, now_ms=now_ms)
    sender = WebhookSender(
        engine, Sealing(master.derive_all(Purpose.CREDENTIALS)), listed=settings.webhook_hosts
    )
    feed = UsageFeed(engine)
    await catalog.start()
    looked: tuple[int, object] | None = None
    next_look = next_count = 0.0
    loop = asyncio.get_running_loop()
    try:
        while True:
            pause = EVENTS_SECONDS
            try:
                # Other hosts' drainers post as well, so that also without news of our own it is looked now and then.
                news = (state.posted, catalog.latest)
                began = loop.time()
                if news != looked or began >= next_look:
                    await watch.turn()
                    looked, next_look = news, loop.time() + EVENTS_AT_LEAST_SECONDS
                    # However many budgets there are, looking takes a tenth of the time.
                    pause = max(pause, 9 * (loop.time() - began))
                if openings is not None and catalog.latest is not None:
                    await openings.turn()
                waiting = await look(books)
                if credited is not None and catalog.latest is not None and waiting.credited:
                    await credited.turn()
                queued = await feed.turn() if waiting.listened else 0
                if queued or (waiting.due and await sender.turn()):
                    pause = 0.0
                if loop.time() >= next_count:
                    next_count = loop.time() + EVENTS_AT_LEAST_SECONDS
                    state.webhooks_given_up = await sender.dropped()
                    state.usage_told, state.usage_dropped = await feed.counts()
                state.events = watch.count
            except (Unavailable, Away):
                pass
            except Exception:
                logger.exception("events wait for the next turn")
            await asyncio.sleep(until_beat(pause) if pause else 0.0)
    finally:
        await catalog.stop()
        if counters is not None:
            await counters.close()
        await engine.dispose()


async def _tell(path: Path, state: DrainState) -> None:
    told = b""
    fresh = path.with_name(f".{path.name}")
    while True:
        text = msgspec.json.encode(state)
        if text != told:
            try:
                fresh.write_bytes(text + b"\n")
                fresh.replace(path)
                told = text
            except OSError as exc:
                logger.warning("%s cannot be written: %s", path, exc.strerror)
        await beat(STATE_SECONDS)
