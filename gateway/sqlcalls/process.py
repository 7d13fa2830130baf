"""The process that answers calls from SQL: one on a host, beside the workers, with a spool and reservations of its own.

Apart from the workers, so that a table of a million rows costs no other caller a turn of its event loop. On SIGTERM no
call is claimed any more, what runs gets 30 s, and what is left is handed on by the drainer.
"""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace

from gateway.counters.settler import CounterSettler
from gateway.parts import Parts, asked_to_end, built, run_process
from gateway.settings import Settings
from gateway.sqlcalls.answering import Answering
from gateway.sqlcalls.resumed import ResumedReservations
from gateway.store.sql_calls import CallQueue
from gateway.telemetry import FLUSH_SECONDS

DRAIN_SECONDS = 30.0


def run(settings: Settings) -> int:
    """Answer until asked to stop; the exit status."""
    return run_process(lambda: serve(settings))


async def serve(settings: Settings) -> None:
    """Build the parts, answer, and let go of them in order."""
    asked = asked_to_end()
    async with built(settings, "sql-calls") as parts:
        assert settings.database_url is not None
        assert settings.redis_url is not None
        settler = CounterSettler(settings.redis_url)
        await settler.start()
        reservations = ResumedReservations(parts.reservations, settler, parts.spool.worker_id)
        queue = CallQueue(settings.database_url, parts.spool.worker_id)
        answering = Answering(replace(parts.line, reservations=reservations), queue)

        def changed(touched: frozenset[str]) -> None:
            if not touched and parts.catalog.latest is not None:
                answering.changed(parts.catalog.latest)

        parts.catalog.subscribe(changed)
        gc.collect()
        gc.freeze()
        chores = [asyncio.create_task(answering.run()), asyncio.create_task(_report(parts))]
        waiting = asyncio.create_task(asked.wait())
        await asyncio.wait([waiting, *chores], return_when=asyncio.FIRST_COMPLETED)
        for each in (*chores, waiting):
            each.cancel()
        await asyncio.gather(*chores, return_exceptions=True)
        await answering.drain(DRAIN_SECONDS)
        await reservations.settled(2.0)
        await settler.stop()
        await queue.close()
        parts.trail.tick(last=True)
        parts.telemetry.flush()


async def _report(parts: Parts) -> None:
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        parts.trail.tick()
        parts.telemetry.flush()
