"""Writes kept calls into PostgreSQL, beside the calls and over a connection of its own.

With PostgreSQL away it tries again and again while the bounded rest waits; a row that PostgreSQL refuses is dropped
alone. The application may add rows and can read none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import asyncpg

from gateway.payloads.keeping import Keeping, Kept, Redaction, Untouched
from gateway.store.database import FAILED, connect

log = logging.getLogger(__name__)

AT_ONCE = 100
BATCH_BYTES = 4 << 20
AGAIN_SECONDS = 1.0
IDLE_SECONDS = 10.0
_INSERT = """
    INSERT INTO gateway.payloads (request_id, request_time, endpoint_id, endpoint_name, principal_id, principal_name, api,
        client_request_id, entity_id, entity_name, status_code, duration_ms, sampling_fraction, request, response,
        request_bytes, response_bytes, logging_error_codes)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
    ON CONFLICT DO NOTHING
"""


class PayloadStore:
    """One process's way of kept calls into the store."""

    def __init__(self, url: str, keeping: Keeping, redaction: Redaction | None = None) -> None:
        self._url = url
        self._keeping = keeping
        self._redaction = redaction or Untouched()
        self._fresh = asyncio.Event()
        self._connection: asyncpg.Connection | None = None
        self._days: set[str] = set()
        self._complained = False
        self._task: asyncio.Task[None] | None = None
        keeping.wake = self._fresh.set

    def start(self) -> None:
        """Begin to write what comes."""
        self._task = asyncio.create_task(self._run(), name="payloads")

    async def close(self, seconds: float = 5.0) -> None:
        """Write what waits, for so long; what is left then is dropped and counted."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        with contextlib.suppress(*FAILED):
            async with asyncio.timeout(seconds):
                while self._keeping.waiting:
                    await self._write(self._batch())
        while self._keeping.waiting:
            self._keeping.stored(self._keeping.waiting.popleft(), "dropped")
        await self._disconnect()

    async def _run(self) -> None:
        while True:
            self._fresh.clear()
            try:
                while self._keeping.waiting:
                    await self._write(self._batch())
                    self._complained = False
            except FAILED as exc:
                if not self._complained:
                    log.warning("kept calls wait for PostgreSQL: %s", type(exc).__name__)
                    self._complained = True
                await self._disconnect()
                await asyncio.sleep(AGAIN_SECONDS)
                continue
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    await self._fresh.wait()
            except TimeoutError:
                await self._disconnect()
                await self._fresh.wait()

    def _batch(self) -> list[Kept]:
        batch: list[Kept] = []
        size = 0
        for each in self._keeping.waiting:
            if batch and (len(batch) == AT_ONCE or size + each.size > BATCH_BYTES):
                break
            batch.append(each)
            size += each.size
        return batch

    async def _write(self, batch: Sequence[Kept]) -> None:
        """Write the first of those that wait; only then are they let go of."""
        connection = await self._reach()
        rows = [await asyncio.to_thread(_row, each, self._redaction) for each in batch]
        for day in {_day(each) for each in batch} - self._days:
            await connection.execute(
                "SELECT gateway.make_payload_day($1)", datetime.fromisoformat(day).date()
            )
            self._days.add(day)
        try:
            await connection.executemany(_INSERT, rows)
            outcomes = ["stored"] * len(batch)
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError):
            # One is at fault, or its day was dropped meanwhile: each is tried alone.
            self._days.clear()
            outcomes = [await self._one(connection, row) for row in rows]
        for each, outcome in zip(batch, outcomes, strict=True):
            self._keeping.waiting.popleft()
            self._keeping.stored(each, outcome)

    async def _one(self, connection: asyncpg.Connection, row: tuple[object, ...]) -> str:
        try:
            await connection.execute(_INSERT, *row)
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as exc:
            log.warning("a kept call was refused by PostgreSQL: %s", type(exc).__name__)
            return "dropped"
        return "stored"

    async def _reach(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await connect(self._url, application_name="weighbridge-payloads")
        return self._connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


def _row(kept: Kept, redaction: Redaction) -> tuple[object, ...]:
    request, response, request_bytes, response_bytes, codes = kept.texts(redaction)
    return (
        UUID(bytes=kept.request_id),
        _began(kept),
        kept.endpoint_id,
        kept.endpoint_name,
        kept.principal_id,
        kept.principal_name,
        kept.api,
        None if kept.client_request_id is None else kept.client_request_id[:1024].replace("\0", "\ufffd"),
        kept.entity_id,
        kept.entity_name,
        kept.http_status,
        kept.duration_ms,
        kept.sampling_fraction,
        request,
        response,
        request_bytes,
        response_bytes,
        codes,
    )


def _began(kept: Kept) -> datetime:
    """When its id was made."""
    return datetime.fromtimestamp(int.from_bytes(kept.request_id[:6], "big") / 1000, UTC)


def _day(kept: Kept) -> str:
    return _began(kept).date().isoformat()
