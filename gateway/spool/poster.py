"""Posts what readers found, and finds out which rows the ledger refuses.

A refused batch is halved until what is refused stands alone; that is tried three times and then goes to quarantine.
The rest is posted meanwhile, and positions never pass what is not in the ledger or in quarantine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from gateway.spool.books import Books, Place, Position, Posting, Refused
from gateway.spool.quarantine import Quarantine
from gateway.spool.reader import SpoolReader
from gateway.spool.retention import mark_drained
from gateway.spool.segments import write_position

TRIES = 3
RETRY_SECONDS = 1.0
CLOCKS_APART_MS = 1_000
"""How far Redis, whose time admits, may be behind this host."""


@dataclass(slots=True)
class Suspect:
    """A request whose rows were refused, and may be again."""

    posting: Posting
    tries: int
    next_at: float


@dataclass(slots=True)
class DrainedSpool:
    """A spool that is being drained."""

    reader: SpoolReader
    posted: Place
    suspects: dict[bytes, Suspect] = field(default_factory=dict[bytes, Suspect])
    burial: asyncio.Task[None] | None = None
    """Under way once its owner is dead and all of it is posted."""
    told: Place | None = None
    """Of which place its owner was told."""

    @property
    def place(self) -> Place:
        """Everything before this is in the ledger once what was read has been posted."""
        return min([self.reader.place, *(each.posting.place for each in self.suspects.values())])

    def position(self) -> Position:
        """The same with the time and the settlement up to which this spool is complete."""
        reader = self.reader
        suspects = [each.posting.request for each in self.suspects.values()]
        admitted = [entry.intent.admitted_at_ms for entry in reader.open.values()]
        admitted += [each.admitted_at_ms for each in suspects]
        # What was appended after the reading began may have been admitted before it ended.
        admitted.append(reader.read_until_ms - CLOCKS_APART_MS if reader.at_end else reader.last_admitted_ms)
        return Position(
            reader.spool_id,
            self.place,
            max(0, min(admitted)),
            read_until_ms=min([reader.read_until_ms, *(each.ended_at_ms for each in suspects)]) or None,
            ended_number=min([reader.ended_number, *((each.ended_number or 1) - 1 for each in suspects)]),
        )


class Poster:
    """Hands postings to the ledger; `posted` counts those that were new to it."""

    def __init__(self, books: Books, quarantine: Quarantine) -> None:
        self.posted = 0
        self._books = books
        self._quarantine = quarantine

    async def post(self, found: Mapping[UUID, list[Posting]], spools: Mapping[UUID, DrainedSpool]) -> None:
        """Post one batch of several spools with their new positions; raises Away."""
        for spool_id, spool in spools.items():
            if spool.reader.unmatched:
                await self._check_unmatched(spool, found.get(spool_id, ()))
        batch = [posting for each in found.values() for posting in each]
        if not batch:
            return
        touched = [spools[spool_id] for spool_id in found]
        try:
            positions = _positions(touched)
            self.posted += len(await self._books.post(batch, positions))
        except Refused:
            for spool_id, postings in found.items():
                await self.post_what_can_be(spools[spool_id], postings)
            positions = _positions(touched)
            await self._books.post([], positions)
        _remember(touched, positions)

    async def post_orphans(self, orphans: Sequence[Posting], ended: Position) -> set[bytes]:
        """Post what a dead owner left open, with the position after it; the ids that were new. Raises Away, Refused."""
        new = await self._books.post(orphans, [ended])
        self.posted += len(new)
        return new

    async def post_positions(self, spools: Iterable[DrainedSpool]) -> None:
        """Say how far spools have come, posted to or not; their workers, who bound what is not drained, are told too."""
        spools = list(spools)
        positions = _positions(spools)
        if positions:
            await self._books.post([], positions)
            _remember(spools, positions)
            for spool in spools:
                if spool.told != spool.posted:
                    write_position(spool.reader.folder, *spool.posted)
                    spool.told = spool.posted

    async def post_what_can_be(self, spool: DrainedSpool, postings: Sequence[Posting]) -> set[bytes]:
        """Post rows by halves until what is refused stands alone; the ids that were new."""
        try:
            new = await self._books.post(postings, [])
        except Refused as exc:
            if len(postings) == 1:
                self._suspect(spool, postings[0], str(exc))
                return set()
            middle = len(postings) // 2
            new = await self.post_what_can_be(spool, postings[:middle])
            return new | await self.post_what_can_be(spool, postings[middle:])
        self.posted += len(new)
        return new

    async def retry(self, spool: DrainedSpool) -> None:
        """Try again what was refused, when its time has come."""
        now = time.monotonic()
        for suspect in [each for each in spool.suspects.values() if each.next_at <= now]:
            await self.post_what_can_be(spool, [suspect.posting])
            if suspect is spool.suspects.get(suspect.posting.request.request_id):
                del spool.suspects[suspect.posting.request.request_id]

    def _suspect(self, spool: DrainedSpool, posting: Posting, reason: str) -> None:
        key = posting.request.request_id
        tries = spool.suspects[key].tries + 1 if key in spool.suspects else 1
        if tries < TRIES:
            spool.suspects[key] = Suspect(posting, tries, time.monotonic() + RETRY_SECONDS)
            return
        reason = f"refused {tries} times: {reason}"
        self._quarantine.records(spool.reader.spool_id, posting.place, posting.records, reason)
        spool.suspects.pop(key, None)

    async def _check_unmatched(self, spool: DrainedSpool, found: Sequence[Posting]) -> None:
        """A settlement without an intent belongs to a request that was posted before, else something is missing."""
        reader = spool.reader
        here = {posting.request.request_id for posting in found} | spool.suspects.keys()
        known = await self._books.known({record.request_id for record, _ in reader.unmatched} - here) | here
        for record, place in reader.unmatched:
            if record.request_id not in known:
                self._quarantine.records(
                    reader.spool_id, place, [record], "a settlement whose intent is missing"
                )
        reader.unmatched.clear()


def now_ms() -> int:
    """Milliseconds since 1970, by this host's clock."""
    return time.time_ns() // 1_000_000


def _positions(spools: Iterable[DrainedSpool]) -> list[Position]:
    return [spool.position() for spool in spools]


def _remember(spools: Iterable[DrainedSpool], positions: Iterable[Position]) -> None:
    for spool, position in zip(spools, positions, strict=True):
        if spool.posted != position.place:
            mark_drained(spool.reader.folder, spool.posted, position.place)
            spool.posted = position.place
