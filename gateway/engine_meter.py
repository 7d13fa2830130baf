"""Asks every local engine for its metrics every few seconds, and adds up by the minute how long it worked.

A stretch between two looks of which nothing is known (the first one, one in which the engine began anew, a clock that was
set) belongs to no minute: there the ledger alone says who used the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from engines.http1.transport import Http1Transport
from engines.local.gauges import gauges
from engines.local.meter import Reading, Worked, reading, worked
from gateway.errors import Unavailable
from gateway.store.engine_minutes import EngineMinute

LOOK_SECONDS = 5.0
_MINUTE = 60 * 10**6
_LAST_SECONDS = 2.0
_CLOCK_SLIP = 500_000
"""Microseconds that the wall's clock may move against the steady one between two looks."""
_MOST_WAITING = 24 * 60
"""Minutes that wait for a PostgreSQL that is away."""
log = logging.getLogger(__name__)

Keep = Callable[[Sequence[EngineMinute]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Look:
    """One look at an engine: the wall's time and the steady clock's in microseconds, and what the engine said."""

    at: int
    steady: int
    reading: Reading | None
    away: bool = False
    """Whether it did not answer at all; one that answers something else is not known."""


class EngineLog:
    """What is known of one engine's time, from look to look."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._last: Look | None = None
        self._minutes: dict[int, Worked] = {}

    def add(self, look: Look) -> None:
        """The next look; what it tells of the time since the last one is added up."""
        before, self._last = self._last, look
        if before is None:
            return
        passed = look.at - before.at
        if passed <= 0 or abs(look.steady - before.steady - passed) > _CLOCK_SLIP:
            return
        done = None
        if before.away:
            # It came back at some moment in between, if it did, and has done next to nothing since.
            done = Worked(watched=passed, away=passed)
        elif before.reading is not None and look.reading is not None:
            done = worked(before.reading, look.reading, passed)
        if done is not None:
            first = before.at - before.at % _MINUTE
            starts = range(first, look.at, _MINUTE)
            ends = [min(each + _MINUTE, look.at) - before.at for each in starts]
            for start, part in zip(starts, done.over(passed, ends), strict=True):
                self._minutes[start] = self._minutes.get(start, Worked()).plus(part)

    def handed(self, now: int | None = None) -> list[EngineMinute]:
        """The minutes that ended before `now`, or all of them; each is handed over once."""
        over = sorted(each for each in self._minutes if now is None or each + _MINUTE <= now)
        return [
            EngineMinute(self._engine, datetime.fromtimestamp(each // 10**6, UTC), self._minutes.pop(each))
            for each in over
        ]


class EngineMeter:
    """Looks at all engines until stopped, and hands their minutes over."""

    def __init__(self, addresses: str, keep: Keep) -> None:
        """`addresses` as WEIGHBRIDGE_ENGINE_URL has them."""
        self._keep = keep
        self._engines = [
            (Http1Transport(each), EngineLog(_name(each))) for each in map(_trimmed, addresses.split(","))
        ]
        self._waiting: list[EngineMinute] = []

    async def run(self) -> None:
        """Until cancelled; then what was seen of the last minute is handed over as well."""
        try:
            while True:
                await self.turn()
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            await asyncio.shield(self._end())

    async def turn(self) -> None:
        """Look at each once, and hand over what is done."""
        looks = await asyncio.gather(*(look_at(transport) for transport, _ in self._engines))
        for (_, each), look in zip(self._engines, looks, strict=True):
            each.add(look)
            # A look that took its time may still have been late for the minute before its own.
            self._waiting += each.handed(look.at)
        await self._hand_over()

    async def _hand_over(self) -> None:
        del self._waiting[: -_MOST_WAITING * len(self._engines)]
        if not self._waiting:
            return
        try:
            await self._keep(self._waiting)
        except Unavailable:
            return
        except Exception:
            log.exception("%d minutes of the engines' time are not kept", len(self._waiting))
        self._waiting = []

    async def _end(self) -> None:
        for transport, each in self._engines:
            self._waiting += each.handed()
            await transport.aclose()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                await self._hand_over()


async def look_at(transport: Http1Transport) -> Look:
    """Ask an engine for its metrics once."""
    said = await gauges(transport)
    # Taken after the answer: its counters are of a moment before it was there.
    at, steady = time.time_ns() // 1000, time.monotonic_ns() // 1000
    return Look(at, steady, None if said is None else reading(said), away=said is None)


def _trimmed(address: str) -> str:
    return address.strip().removesuffix("/").removesuffix("/v1")


def _name(address: str) -> str:
    return f"{socket.gethostname()} {address}" if address.startswith("unix:") else address
