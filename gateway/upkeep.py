"""What the books need now and then, beside the drainer: heads of the audit exported, old weeks closed, engines' time
noted, all of it verified.

Each in its own time and none in another's way; one that fails says so and is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from functools import partial

from engines.beats import beat
from gateway.engine_meter import EngineMeter
from gateway.errors import Unavailable
from gateway.events.heads import HeadExport
from gateway.settings import Settings
from gateway.store import database
from gateway.store.closing import close_weeks
from gateway.store.engine_minutes import forget_minutes, keep_minutes
from gateway.store.payloads import drop_old_turns, drop_payload_days, forget_payloads

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
CLOSE_SECONDS = 3600.0
_CLOSING_SECONDS = 3600.0
_DAY_MINUTES = 1440


async def keep_up(settings: Settings, url: str, key: bytes) -> None:
    """Export, close and verify until cancelled."""
    await asyncio.gather(
        _export(settings, url, key),
        _close(settings, url, key),
        _forget(settings, url),
        _meter(settings, url),
        _verify(settings),
    )


async def _export(settings: Settings, url: str, key: bytes) -> None:
    engine = database.engine(url, application_name="weighbridge-heads", size=0)
    heads = HeadExport(engine, path=settings.audit_heads, key=key, every_seconds=settings.audit_heads_seconds)
    try:
        while True:
            try:
                await heads.turn()
            except Unavailable:
                pass
            except Exception:
                logger.exception("no head of the audit was exported to %s", settings.audit_heads)
                await asyncio.sleep(60.0)
            await beat(LOOK_SECONDS)
    finally:
        await engine.dispose()


async def _close(settings: Settings, url: str, key: bytes) -> None:
    if settings.ledger_keep_days is None:
        return
    keep = timedelta(days=settings.ledger_keep_days)
    engine = database.engine(
        url, application_name="weighbridge-closing", size=0, statement_seconds=_CLOSING_SECONDS
    )
    try:
        while True:
            try:
                await close_weeks(engine, key, keep)
                await forget_minutes(engine, keep, datetime.now(UTC))
            except Unavailable:
                pass
            except Exception:
                logger.exception("a week of the ledger could not be closed; it is tried again in an hour")
            await asyncio.sleep(CLOSE_SECONDS)
    finally:
        await engine.dispose()


async def _forget(settings: Settings, url: str) -> None:
    """Let go of kept calls whose days are over or that their endpoint keeps no longer, and of responses likewise."""
    engine = database.engine(url, application_name="weighbridge-payloads", size=0)
    try:
        while True:
            try:
                keep = timedelta(days=settings.payload_keep_days)
                await drop_payload_days(engine, keep)
                await forget_payloads(engine, keep)
                await drop_old_turns(engine)
            except Unavailable:
                pass
            except Exception:
                logger.exception("a day of kept calls could not be dropped; it is tried again in an hour")
            await asyncio.sleep(CLOSE_SECONDS)
    finally:
        await engine.dispose()


async def _meter(settings: Settings, url: str) -> None:
    """Note how long the local engines work, by their own metrics."""
    if settings.engine_url is None:
        return
    engine = database.engine(url, application_name="weighbridge-engine-time", size=0)
    try:
        await EngineMeter(settings.engine_url, partial(keep_minutes, engine)).run()
    finally:
        await engine.dispose()


async def _verify(settings: Settings) -> None:
    if settings.verify_at is None:
        return
    while True:
        await asyncio.sleep(seconds_until(settings.verify_at, time.time()))
        await verify_apart(settings)


def seconds_until(minute: int, now: float) -> float:
    """From `now`, in seconds since 1970, to the next time that the UTC day is `minute` minutes old."""
    into = now % (_DAY_MINUTES * 60)
    return (minute * 60 - into) % (_DAY_MINUTES * 60) or _DAY_MINUTES * 60.0


async def verify_apart(settings: Settings) -> int:
    """Run `weighbridge verify` in a process of its own, so that the drainer does not wait for it; its exit status."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        "verify",
        "--format",
        "json",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **settings.to_env()},
    )
    try:
        told, said = await process.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise
    match process.returncode:
        case 0:
            logger.info("verified: all of the books holds")
        case 1:
            for check in json.loads(told)["checks"]:
                for found in check["findings"]:
                    logger.critical(
                        "the books are wrong: %s: %s: %s", check["title"], found["where"], found["what"]
                    )
        case _:
            reason = said.decode(errors="replace").strip()[-500:]
            logger.error("the books could not be verified whole: %s", reason or "see `weighbridge verify`")
    return process.returncode or 0
