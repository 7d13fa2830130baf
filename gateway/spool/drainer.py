"""Moves what workers have appended to their spools into the ledger.

Nothing is lost while the ledger is away: reading begins again at the positions that it holds. One drainer runs on a
host.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from engines.beats import until_beat
from gateway.spool.books import Away, Books, Calls, Place, Posting, Refused, Seals, Settler
from gateway.spool.burial import Burials
from gateway.spool.poster import CLOCKS_APART_MS, DrainedSpool, Poster, now_ms
from gateway.spool.quarantine import Quarantine
from gateway.spool.reader import MOST_REFUSALS, SpoolReader
from gateway.spool.retention import CLOSED, drop_old_segments, drop_old_spools, spool_folders

logger = logging.getLogger(__name__)

LOCK = "drainer.lock"
BATCH = 1_000
"""Requests at once; the more, the fewer changes of sums: 0.44 of an hour's for each request, 0.51 with half as many."""
PAUSE_SECONDS = 0.25
"""Between batches that were not full: rows are posted this soon, and together.

Turning three times as often cost a paced stream, of which some 50 end in a second, 0.38 ms of it instead of 0.15.
"""
BEAT_SECONDS = 2.0
HOUSE_SECONDS = 3600.0
SEAL_SECONDS = 1.0
"""Refusals are sealed into the audit this often."""
LONGEST_BACKOFF_SECONDS = 2.0
LAST_SECONDS = 10.0
_STEP_NS = 100_000_000
"""Changes of a folder that are so far apart have different times."""


class AnotherDrainer(RuntimeError):
    """A drainer runs on these spools already; the text says where its lock is."""


@dataclass(slots=True)
class DrainState:
    """What the drainer is doing, for `status`, readiness and metrics."""

    posted: int = 0
    """Requests that were new to the ledger."""
    quarantined: int = 0
    spools: int = 0
    open_requests: int = 0
    complete_until_ms: int = 0
    """All of this host's requests admitted before are in the ledger."""
    away_since_ms: int | None = None
    """Since when the ledger cannot be written; None while it can."""
    last_error: str | None = None
    sealed: int = 0
    """Refusals, and counts of them, that were sealed into the audit since this process began."""
    events: int = 0
    """Events that were raised since this process began."""
    webhooks_given_up: int = 0
    """Deliveries of the last 30 days that were given up."""
    usage_told: int = 0
    """Settled requests that were queued for webhooks."""
    usage_dropped: int = 0
    """Settled requests that webhooks are never told of: they took nothing for too long."""


class Drainer:
    """Drains every spool under one root."""

    def __init__(
        self,
        root: Path,
        books: Books,
        settler: Settler | None = None,
        seals: Seals | None = None,
        calls: Calls | None = None,
    ) -> None:
        """`settler` corrects the counters for dead workers; None leaves that to the counters' expiry.

        `seals` takes refusals into the audit; None passes them over. `calls` takes what others begin again.
        """
        self.state = DrainState()
        self._root = root
        self._books = books
        self._seals = seals
        self._quarantine = Quarantine(root)
        self._poster = Poster(books, self._quarantine)
        self._burials = Burials(books, self._poster, settler, calls)
        self._spools: dict[UUID, DrainedSpool] = {}
        self._lock = -1
        self._stopping = asyncio.Event()
        self._next_beat = self._next_house = self._next_seal = 0.0
        self._looked_through = 0
        """The time of the spools' folder when nothing new was in it; 0 where it was not looked through since it changed."""

    def lock(self) -> None:
        """Become this host's drainer; raises AnotherDrainer. Held until `close` or the end of the process."""
        if self._lock >= 0:
            return
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._root / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(fd)
            raise AnotherDrainer(f"Another drainer holds {self._root / LOCK}; one runs on a host.") from exc
        self._lock = fd

    def stop(self) -> None:
        """Ask `run` to take what is there and return."""
        self._stopping.set()

    def close(self) -> None:
        """Let go of every file and of the lock."""
        for spool in self._spools.values():
            if spool.burial is not None:
                spool.burial.cancel()
            spool.reader.close()
        self._spools.clear()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    async def run(self) -> None:
        """Drain until `stop`, through every absence of the ledger; then once more, if it is there."""
        self.lock()
        backoff = 0.1
        try:
            while not self._stopping.is_set():
                try:
                    more = await self.turn()
                    await self._now_and_then()
                except Away as exc:
                    self._is_away(exc)
                    await self._sleep(backoff)
                    backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)
                    continue
                self._is_back()
                backoff = 0.1
                if not more:
                    await self._sleep(until_beat(PAUSE_SECONDS))
            await self._last_turns()
        finally:
            self.close()

    async def turn(self) -> bool:
        """Read and post one batch over all spools; True if there is probably more. Raises Away."""
        try:
            await self._find_spools()
            found, left = self._read()
            await self._poster.post(found, self._spools)
            await self._seal()
            for spool_id, spool in list(self._spools.items()):
                if spool.suspects:
                    await self._poster.retry(spool)
                if await self._burials.attend(spool, self._spools):
                    del self._spools[spool_id]
        except BaseException:
            self._start_over()
            raise
        self._describe()
        return left == 0

    def settled(self) -> bool:
        """Whether all that is written was posted and no dead worker is left."""
        return all(
            spool.reader.at_end and spool.burial is None and not spool.reader.refusals
            for spool in self._spools.values()
        )

    def _read(self) -> tuple[dict[UUID, list[Posting]], int]:
        found: dict[UUID, list[Posting]] = {}
        left = BATCH
        for spool_id, spool in self._spools.items():
            if left == 0:
                break
            if spool.burial is None and (some := spool.reader.read(left)):
                found[spool_id] = some
                left -= len(some)
        if found:
            # The next turn begins with another spool: a busy one must not starve the rest.
            first = next(iter(found))
            self._spools[first] = self._spools.pop(first)
        return found, left

    async def _seal(self) -> None:
        """Take the refusals that were read into the audit, when it is time."""
        now = time.monotonic()
        full = any(len(spool.reader.refusals) >= MOST_REFUSALS for spool in self._spools.values())
        if now < self._next_seal and not full:
            return
        waiting = {each: spool.reader for each, spool in self._spools.items() if spool.reader.refusals}
        if not waiting:
            return
        if self._seals is not None:
            found = {each: [refusal for refusal, _ in reader.refusals] for each, reader in waiting.items()}
            try:
                self.state.sealed += await self._seals.seal(found)
            except Refused as exc:
                lost = sum(map(len, found.values()))
                logger.critical("%d refusals are not in the audit: it does not take them (%s)", lost, exc)
        for reader in waiting.values():
            reader.refusals.clear()
        self._next_seal = now + SEAL_SECONDS

    async def _find_spools(self) -> None:
        # A folder that was looked through is as it was until its time changes; times go in steps of some milliseconds.
        try:
            changed = self._root.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if changed == self._looked_through:
            return
        fresh = [
            folder
            for folder in spool_folders(self._root)
            if UUID(folder.name) not in self._spools and not (folder / CLOSED).exists()
        ]
        if not fresh:
            self._looked_through = changed if time.time_ns() - changed > _STEP_NS else 0
            return
        positions = await self._books.positions([UUID(folder.name) for folder in fresh])
        if len(positions) < len(fresh):
            # Known from the first turn on to whoever waits for all spools.
            self._next_beat = 0.0
        for folder in fresh:
            known = positions.get(UUID(folder.name))
            start = Place(0, 0) if known is None else known.place
            reader = SpoolReader(folder, self._quarantine, start)
            self._spools[reader.spool_id] = DrainedSpool(reader, start)

    def _start_over(self) -> None:
        """Forget what was read: the positions in the ledger say where to go on."""
        self._looked_through = 0
        for spool_id, spool in list(self._spools.items()):
            if spool.burial is None:
                spool.reader.close()
                del self._spools[spool_id]

    async def _now_and_then(self) -> None:
        now = time.monotonic()
        if now >= self._next_house:
            self._next_house = now + HOUSE_SECONDS
            await self._books.make_partitions()
            for spool in self._spools.values():
                drop_old_segments(spool.reader.folder, spool.posted)
            for spool_id in drop_old_spools(self._root):
                await self._books.forget(spool_id)
        if now >= self._next_beat:
            self._next_beat = now + BEAT_SECONDS
            await self._poster.post_positions(
                spool for spool in self._spools.values() if spool.burial is None
            )

    # -- what others see -----------------------------------------------------------------------

    def _describe(self) -> None:
        now, state = now_ms(), self.state
        living = [spool for spool in self._spools.values() if spool.burial is None]
        state.posted, state.quarantined = self._poster.posted, self._quarantine.count
        state.spools = len(self._spools)
        state.open_requests = sum(len(spool.reader.open) for spool in living)
        state.complete_until_ms = min(
            [now - CLOCKS_APART_MS, *(spool.position().complete_until_ms for spool in living)]
        )

    def _is_away(self, exc: Away) -> None:
        if self.state.away_since_ms is None:
            self.state.away_since_ms = now_ms()
            logger.error("the ledger cannot be written (%s); spools are kept and it is tried again", exc)
        self.state.last_error = str(exc)

    def _is_back(self) -> None:
        if self.state.away_since_ms is not None:
            logger.warning("the ledger is back after %.0f s", (now_ms() - self.state.away_since_ms) / 1000)
            self.state.away_since_ms = None

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _last_turns(self) -> None:
        """Take what the workers left as they ended."""
        try:
            async with asyncio.timeout(LAST_SECONDS):
                while await self.turn() or not self.settled():  # noqa: ASYNC110 - other processes' files, no event
                    await asyncio.sleep(PAUSE_SECONDS / 25)
        except (Away, TimeoutError) as exc:
            logger.warning("the drainer ends with work left for its next start (%s)", exc or "time is up")
