"""Ends what a dead worker left: its open requests in the ledger, then its charges in the counters.

The ledger comes first and is final. The counters remember a settlement for a minute: within it they may be told
again without harm, after it they are left to expire. What was admitted and is in no spool, since the worker died before
it had written that down, was never dispatched: all of it is given back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from uuid import UUID

from gateway.ids import text
from gateway.spool.books import EVERYTHING, Books, Calls, Position, Posting, Refused, Settler
from gateway.spool.joining import settled
from gateway.spool.orphans import notes
from gateway.spool.poster import CLOCKS_APART_MS, RETRY_SECONDS, DrainedSpool, Poster, now_ms
from gateway.spool.reader import SpoolReader
from gateway.spool.recent import settled_since, without_intent
from gateway.spool.records import Intent, Settlement
from gateway.spool.retention import mark_closed
from gateway.spool.running import read_running
from gateway.spool.segments import decode, payloads
from policies.windows import FOREVER_MS

logger = logging.getLogger(__name__)

FROM_SQL = "sql."
"""What the `api` of calls begins with whose callers wait for them in PostgreSQL."""
REMEMBERED_SECONDS = 55.0
BATCH = 500


class Burials:
    """Looks after spools whose owners are dead."""

    def __init__(
        self, books: Books, poster: Poster, settler: Settler | None, calls: Calls | None = None
    ) -> None:
        self._books = books
        self._poster = poster
        self._settler = settler
        self._calls = calls

    async def attend(self, spool: DrainedSpool, spools: Mapping[UUID, DrainedSpool]) -> bool:
        """Take the next step with a spool that may be dead; True once it is closed and needs no more reading."""
        if spool.burial is not None:
            if not spool.burial.done():
                return False
            await self._close(spool)
            return True
        reader = spool.reader
        if not reader.at_end or not reader.owner_is_dead():
            return False
        # The last it wrote may have come between our reading and its death.
        found = reader.read(BATCH)
        if found or not reader.at_end or reader.skip_torn_end():
            reader.at_end = False
            await self._poster.post({reader.spool_id: found}, spools)
        elif not spool.suspects and not reader.refusals:
            await self._end_orphans(spool)
        return False

    async def _end_orphans(self, spool: DrainedSpool) -> None:
        reader = spool.reader
        orphans = reader.orphans()
        if self._calls is not None:
            orphans = await self._without_resumed(reader, orphans, self._calls)
        ended = Position(
            reader.spool_id,
            reader.place,
            spool.position().complete_until_ms,
            read_until_ms=FOREVER_MS,
            ended_number=EVERYTHING,
        )
        try:
            # In one transaction: whoever sums up the ledger sees all of it ended, or none.
            new = await self._poster.post_orphans(orphans, ended)
        except Refused:
            new = set[bytes]()
            for start in range(0, len(orphans), BATCH):
                new |= await self._poster.post_what_can_be(spool, orphans[start : start + BATCH])
            if spool.suspects:
                # Refused, for now: the next turn tries again.
                return
            await self._books.post([], [ended])
        if self._calls is not None:
            await self._calls.release(reader.spool_id)
        if orphans:
            logger.warning(
                "worker %s died with %d requests open; they are settled", reader.spool_id, len(orphans)
            )
        ids = [each.request.request_id for each in orphans]
        # What an earlier drainer posted, it settled too: told again, it would count twice.
        fresh = new | await self._books.posted_within(ids, REMEMBERED_SECONDS) if ids else new
        now, until = now_ms(), time.monotonic() + REMEMBERED_SECONDS
        owed = [(each, until) for each in orphans if each.request.request_id in fresh]
        since = now - int(REMEMBERED_SECONDS * 1000)
        recent = settled_since(reader.folder, reader.spool_id.bytes, since)
        owed += [(each, until - (now - each.request.ended_at_ms) / 1000) for each in recent]
        spool.burial = asyncio.create_task(self._correct(reader, owed))

    async def _without_resumed(
        self, reader: SpoolReader, orphans: list[Posting], calls: Calls
    ) -> list[Posting]:
        """Hand on what callers still wait for; what was answered ends as it was to end, the rest as interrupted."""
        ended = await calls.kept(reader.spool_id)
        seen = read_running(reader.folder)
        found: dict[bytes, Posting] = {}
        begun: dict[bytes, bytes] = {}
        numbers: dict[bytes, int] = {}
        for id_, entry in reader.open.items():
            if id_ in ended:
                payload, _ = next(payloads(ended[id_]))
                record = decode(payload)
                assert isinstance(record, Settlement)
                found[id_] = settled(entry, record, reader.spool_id.bytes)
            elif entry.intent.api.startswith(FROM_SQL):
                begun[id_] = notes(entry, reader.spool_id.bytes, seen.get(id_))
                numbers[id_] = entry.intent.number
        resumed = await calls.resume(reader.spool_id, begun, numbers)
        return [
            found.get(each.request.request_id, each)
            for each in orphans
            if each.request.request_id not in resumed
        ]

    async def _correct(self, reader: SpoolReader, owed: list[tuple[Posting, float]]) -> None:
        begun = {*reader.open, *(posting.request.request_id for posting, _ in owed)}
        await self._settle(reader.spool_id, owed)
        await self._release(reader, begun)

    async def _release(self, reader: SpoolReader, begun: set[bytes]) -> None:
        """Give back what was admitted between the counters and the spool."""
        if self._settler is None:
            return
        worker, until = str(reader.spool_id), time.monotonic() + REMEMBERED_SECONDS
        while True:
            try:
                held = {UUID(each).bytes for each in await self._settler.unsettled(worker)} - begun
                for each in without_intent(reader.folder, held):
                    await self._settler.release(worker_id=worker, request_id=text(each))
                    logger.warning("request %s never began; its admission is given back", text(each))
            except Exception:
                if time.monotonic() + RETRY_SECONDS >= until:
                    logger.exception("worker %s: what it was admitted with stays in the counters", worker)
                    return
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    async def _settle(self, spool_id: UUID, owed: list[tuple[Posting, float]]) -> None:
        """Correct the counters, for each request until its time is over."""
        if self._settler is None:
            return
        while owed:
            failed: list[tuple[Posting, float]] = []
            for posting, until in owed:
                try:
                    await self._settler.settle(
                        worker_id=str(_admitted_by(posting) or spool_id),
                        request_id=text(posting.request.request_id),
                        charges=posting.charges,
                        granted_output=posting.request.granted_output_tokens,
                        prompt_tokens=posting.prompt_tokens,
                        completion_tokens=posting.completion_tokens,
                        cost_nano_usd=posting.request.cost_nano_usd,
                        spool_id=str(spool_id),
                        number=posting.request.ended_number or EVERYTHING,
                    )
                except Exception:
                    # Whatever the counters' trouble is, the books do not stop for it.
                    if time.monotonic() + RETRY_SECONDS < until:
                        failed.append((posting, until))
                    else:
                        logger.exception(
                            "request %s was not settled in the counters", posting.request.request_id.hex()
                        )
            owed = failed
            if owed:
                await asyncio.sleep(RETRY_SECONDS)

    async def _close(self, spool: DrainedSpool) -> None:
        reader = spool.reader
        reader.open.clear()
        await self._books.post(
            [],
            [
                Position(
                    reader.spool_id,
                    reader.place,
                    now_ms() - CLOCKS_APART_MS,
                    closed=True,
                    read_until_ms=FOREVER_MS,
                    ended_number=EVERYTHING,
                )
            ],
        )
        mark_closed(reader.folder)
        reader.close()


def _admitted_by(posting: Posting) -> UUID | None:
    """Whose counters were charged, where it is another worker's request that was gone on with."""
    intent = posting.records[0]
    return UUID(bytes=intent.admitted_by) if isinstance(intent, Intent) and intent.admitted_by else None
