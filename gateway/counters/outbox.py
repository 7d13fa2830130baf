"""Corrections on their way to Redis, each repeated until Redis took it; the script makes repeating harmless.

Bounded: beyond the bound the oldest are given up and counted. Sliding windows then heal by themselves, and budgets
are put right by the next rebuild from the ledger, which misses nothing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import hiredis

from gateway.counters.errands import ASK, VOID, Errand
from gateway.counters.frames import LOST, entries_of
from gateway.counters.link import Link

_log = logging.getLogger(__name__)

BOUND = 100_000
_RETRY_SECONDS = 1.0


class Outbox:
    """All errands of one worker that Redis has not yet taken."""

    def __init__(self, link: Link, worker_id: str, *, bound: int = BOUND) -> None:
        self.link = link
        self.given_up = 0
        self._worker = worker_id.encode()
        self._bound = bound
        self._errands: dict[Errand, None] = {}
        self._retry: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._empty.set()
        self._awaited = False
        """Somebody waits for the end of them."""

    def __len__(self) -> int:
        return len(self._errands)

    @property
    def errands(self) -> tuple[Errand, ...]:
        """Those not yet taken, oldest first."""
        return tuple(self._errands)

    def put(self, errand: Errand, call: bytes | None = None) -> None:
        """Keep an errand until it is taken; sends it now if Redis is there, as `call` where that is made already."""
        if len(self._errands) >= self._bound:
            oldest = next(iter(self._errands))
            del self._errands[oldest]
            self.given_up += 1
            if self.given_up == 1 or not self.given_up % 1000:
                _log.error("%d corrections for Redis were given up: it is away for too long", self.given_up)
        self._errands[errand] = None
        if self.link.usable:
            if call is None:
                self._send(errand)
            else:
                errand.in_flight = True
                errand.sent_in = self.link.epoch
                self.link.connection.send(call, errand)

    def flush(self) -> None:
        """Send what is not under way."""
        for errand in sorted(self._errands, key=lambda each: not each.urgent):
            if not self.link.usable:
                return
            if not errand.in_flight:
                self._send(errand)

    async def drained(self, seconds: float) -> bool:
        """Wait until everything was taken; False where that took too long."""
        try:
            async with asyncio.timeout(seconds):
                while self._errands:
                    self._awaited = True
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def stop(self) -> None:
        """Send nothing more."""
        if self._retry is not None:
            self._retry.cancel()

    def answered(self, errand: Errand, reply: Any) -> None:
        """A reply, in time or late; None where nobody knows."""
        errand.in_flight = False
        if isinstance(reply, bytes):
            if reply[0] != LOST:
                self.taken(errand)
                errand.done(reply)
                return
            self.link.lost()
        elif isinstance(reply, hiredis.ReplyError):
            if str(reply).startswith("NOSCRIPT"):
                self._send(errand, spelled_out=True)
                return
            # Not taken, though what ends its hold may have been done.
            errand.sent_in = ""
            self.link.failed()
            self._later()

    def taken(self, errand: Errand) -> None:
        """It is done."""
        self._errands.pop(errand, None)
        if self._awaited and not self._errands:
            self._empty.set()

    def _send(self, errand: Errand, *, spelled_out: bool = False) -> None:
        link = self.link
        keys, entries = errand.body(link.epoch)
        mode = errand.mode
        if not entries and mode not in (VOID, ASK) and not errand.lasting:
            self.taken(errand)
            errand.done(b"\1")
            return
        script = link.scripts.settle
        held = link.keys.holds(link.epoch, link.worker_id)
        names = [link.keys.epoch, held, *(each.encode() for each in keys), errand.memory]
        arguments = (link.epoch.encode(), self._worker, b"%d" % mode, entries_of(entries))
        data = script.call(names, arguments)
        errand.in_flight = True
        errand.sent_in = link.epoch
        link.connection.send(script.spelled_out(data) if spelled_out else data, errand)

    def _later(self) -> None:
        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._again)

    def _again(self) -> None:
        self._retry = None
        self.flush()
