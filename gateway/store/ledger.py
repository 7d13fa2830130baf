"""The ledger in PostgreSQL, as the drainer writes it.

Rows, their sums and the spools' positions change in one transaction, and sums only for rows that were not there
before: posting anything twice changes nothing. One statement posts a batch, its keys in order, so that drainers of
several hosts cannot lock each other out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

import asyncpg
from asyncpg.pgproto.pgproto import UUID as FastUUID

from gateway import crashpoints
from gateway.spool.books import Away, Place, Position, Posting, Refused
from gateway.store.database import FAILED, connect
from gateway.store.posting import POST_POSITIONS, post_rows

logger = logging.getLogger(__name__)

STATEMENT_SECONDS = 30.0
# Of the server, and of what turns rows into text before it.
_REFUSALS = (
    asyncpg.DataError,
    asyncpg.IntegrityConstraintViolationError,
    OverflowError,
    ValueError,
    TypeError,
)
_BEGIN = "BEGIN; SET LOCAL statement_timeout = '25s'; SET LOCAL lock_timeout = '10s'"
# What a pooler that gives each transaction another server connection answers to a prepared statement's name.
_NAMES_ARE_LOST = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)


class PostgresBooks:
    """The port Books over one connection that is made when needed and made anew after any failure."""

    def __init__(self, url: str, *, host: str) -> None:
        """`host` names this machine in the positions."""
        self._url = url
        self._host = host
        self._connection: asyncpg.Connection | None = None
        self._names_hold = True
        self._turn = asyncio.Lock()

    async def post(self, postings: Sequence[Posting], positions: Collection[Position]) -> set[bytes]:
        """Post everything in one transaction; the ids of requests that were not in the ledger before."""
        async with self._turn:
            connection = await self._reach()
            try:
                await connection.execute(_BEGIN)
                new: set[bytes] = set()
                if postings:
                    new = await post_rows(connection, postings)
                if positions:
                    await self._post_positions(connection, positions)
                crashpoints.reach("drain_before_commit")
                await connection.execute("COMMIT")
                crashpoints.reach("drain_after_commit")
            except _REFUSALS as exc:
                await self._roll_back()
                raise Refused(str(exc)) from exc
            except FAILED as exc:
                raise await self._away(exc) from exc
            except BaseException:
                # Cancelled in the middle: the connection's state is unknown.
                await self._drop()
                raise
            return new

    async def positions(self, spools: Collection[UUID]) -> Mapping[UUID, Position]:
        """How far these spools have been posted."""
        rows = await self.fetch(
            'SELECT spool_id, segment, "offset", (extract(epoch FROM complete_until) * 1000)::int8 AS until_ms,'
            " closed_at IS NOT NULL AS closed FROM gateway.spool_positions WHERE spool_id = ANY($1::uuid[])",
            list(spools),
        )
        return {
            UUID(bytes=row["spool_id"].bytes): Position(
                UUID(bytes=row["spool_id"].bytes),
                Place(row["segment"], row["offset"]),
                row["until_ms"],
                row["closed"],
            )
            for row in rows
        }

    async def known(self, request_ids: Collection[bytes]) -> set[bytes]:
        """Which of these requests are in the ledger."""
        return _ids(
            await self.fetch(
                "SELECT request_id FROM gateway.requests WHERE request_id = ANY($1::uuid[])",
                [FastUUID(each) for each in request_ids],
            )
        )

    async def posted_within(self, request_ids: Collection[bytes], seconds: float) -> set[bytes]:
        """Which of these requests were posted in the last `seconds`."""
        return _ids(
            await self.fetch(
                "SELECT request_id FROM gateway.requests WHERE request_id = ANY($1::uuid[])"
                " AND recorded_at > now() - make_interval(secs => $2)",
                [FastUUID(each) for each in request_ids],
                seconds,
            )
        )

    async def make_partitions(self) -> int:
        """Make the partitions of the coming weeks."""
        return (await self.fetch("SELECT gateway.make_partitions()"))[0][0]

    async def forget(self, spool_id: UUID) -> None:
        """Take out the position of a spool whose folder is gone."""
        await self.fetch(
            "WITH sealed AS (DELETE FROM gateway.refusals_sealed WHERE spool_id = $1)"
            " DELETE FROM gateway.spool_positions WHERE spool_id = $1",
            spool_id,
        )

    async def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            try:
                await connection.close(timeout=2)
            except FAILED:
                connection.terminate()

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """The rows of one statement; raises Away."""
        async with self._turn:
            connection = await self._reach()
            try:
                return await connection.fetch(statement, *arguments)
            except FAILED as exc:
                raise await self._away(exc) from exc
            except BaseException:
                await self._drop()
                raise

    async def _post_positions(self, connection: asyncpg.Connection, positions: Collection[Position]) -> None:
        await connection.execute(
            POST_POSITIONS,
            [each.spool_id for each in positions],
            self._host,
            [each.place.segment for each in positions],
            [each.place.offset for each in positions],
            [each.complete_until_ms for each in positions],
            [each.closed for each in positions],
            [each.read_until_ms for each in positions],
            [each.ended_number for each in positions],
        )

    async def _reach(self) -> asyncpg.Connection:
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        try:
            self._connection = await connect(
                self._url,
                application_name="weighbridge-drainer",
                statement_seconds=STATEMENT_SECONDS,
                statement_cache_size=20 if self._names_hold else 0,
            )
        except (*FAILED, ValueError) as exc:
            raise Away(f"{type(exc).__name__}: {exc}") from exc
        return self._connection

    async def _away(self, exc: Exception) -> Away:
        if isinstance(exc, _NAMES_ARE_LOST) and self._names_hold:
            logger.info(
                "a transaction pooler stands before PostgreSQL: prepared statements get no names from here on"
            )
            self._names_hold = False
        await self._drop()
        return Away(f"{type(exc).__name__}: {exc}")

    async def _roll_back(self) -> None:
        try:
            assert self._connection is not None
            await self._connection.execute("ROLLBACK")
        except FAILED:
            await self._drop()

    async def _drop(self) -> None:
        """A connection in an unknown state is never used again; the server rolls back what it held."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


def _ids(rows: list[asyncpg.Record]) -> set[bytes]:
    return {row[0].bytes for row in rows}
