"""The queue of calls from SQL, as those see it who answer them, and as the drainer does.

Every step is one call of a function in `weighbridge_calls`, which decides on the server's own clock; nobody reads the
queue's tables.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from gateway.store.database import connect
from gateway.store.ledger import PostgresBooks

CHANNEL = "weighbridge_calls"
LEFT_CHANNEL = "weighbridge_calls_left"
# What a pooler that gives each transaction another server connection answers to a prepared statement's name.
_NAMES_ARE_LOST = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)


@dataclass(frozen=True, slots=True)
class SqlCall:
    """A claimed call."""

    ticket: UUID
    request_id: bytes
    caller: str
    """The SQL role."""
    principal_id: str | None
    """Whom it stands for; None: nobody."""
    kind: str
    """`query` or `embed`."""
    endpoint: str
    body: str
    """JSON."""
    records: bytes | None
    """Of a call that was begun before and cut by a kill."""


class CallQueue:
    """What a process that answers asks of the queue; one connection is notified, another does the work."""

    def __init__(self, url: str, worker_id: UUID) -> None:
        self._url = url
        self._own = worker_id
        self._listening: asyncpg.Connection | None = None
        self._working: asyncpg.Connection | None = None
        self._turn = asyncio.Lock()
        self._names_hold = True

    async def listen(self, fresh: Callable[[], None], left: Callable[[], None]) -> None:
        """Be told of new calls, and of callers that left, from now on; raises what database.FAILED names."""
        if self._listening is not None and not self._listening.is_closed():
            return
        made = await connect(self._url, application_name="weighbridge-sql-calls")

        def notified(connection: object, pid: int, channel: str, payload: object) -> None:
            (fresh if channel == CHANNEL else left)()

        await made.add_listener(CHANNEL, notified)
        await made.add_listener(LEFT_CHANNEL, notified)
        self._listening = made

    async def close(self) -> None:
        """Give the connections back."""
        for each in (self._listening, self._working):
            if each is not None:
                each.terminate()

    async def claim(self, most: int) -> list[SqlCall]:
        """Take up to so many calls that wait."""
        found = await self._fetch("SELECT * FROM weighbridge_calls.claim($1, $2)", most)
        return [
            SqlCall(
                ticket=row["ticket"],
                request_id=row["request_id"].bytes,
                caller=row["caller"],
                principal_id=None if row["principal_id"] is None else str(row["principal_id"]),
                kind=row["kind"],
                endpoint=row["endpoint"],
                body=row["body"],
                records=row["records"],
            )
            for row in found
        ]

    async def stranded(self) -> list[tuple[UUID, bytes]]:
        """Take calls that were begun once and that nobody waits for: (ticket, records)."""
        found = await self._fetch("SELECT * FROM weighbridge_calls.stranded($1)")
        return [(row["ticket"], row["records"]) for row in found]

    async def beat(self) -> dict[UUID, bool]:
        """Say that this process lives. Calls to end: True where nobody waits, False where the role is no longer mapped."""
        found = await self._fetch("SELECT * FROM weighbridge_calls.beat($1)")
        return {row["ticket"]: row["left_alone"] for row in found}

    async def keep(self, ticket: UUID, answer: str, settlement: bytes) -> bool:
        """Put an answer into safety; False where nobody waits for it."""
        found = await self._fetch("SELECT weighbridge_calls.keep($1, $2, $3, $4)", ticket, answer, settlement)
        return bool(found[0][0])

    async def tell(self, ticket: UUID, answer: str | None = None) -> None:
        """Let the caller have what was kept, or this."""
        await self._fetch("SELECT weighbridge_calls.tell($1, $2, $3)", ticket, answer)

    async def forget(self, tickets: list[UUID]) -> None:
        """Delete calls that nobody waits for."""
        await self._fetch("SELECT weighbridge_calls.forget($1, $2)", tickets)

    async def sweep(self) -> None:
        """Delete what nobody fetched."""
        async with self._turn:
            await (await self._reach()).execute("SELECT weighbridge_calls.sweep()")

    async def _fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        async with self._turn:
            connection = await self._reach()
            try:
                return await connection.fetch(statement, self._own, *arguments)
            except _NAMES_ARE_LOST:
                self._names_hold = False
                connection.terminate()
                connection = await self._reach()
                return await connection.fetch(statement, self._own, *arguments)
            except asyncio.CancelledError:
                # In the middle of an exchange: what the connection says next would be taken for another's answer.
                connection.terminate()
                raise

    async def _reach(self) -> asyncpg.Connection:
        if self._working is None or self._working.is_closed():
            self._working = await connect(
                self._url,
                application_name="weighbridge-sql-calls",
                statement_cache_size=20 if self._names_hold else 0,
            )
        return self._working


class DeadCalls:
    """The port Calls over the drainer's own connection."""

    def __init__(self, books: PostgresBooks) -> None:
        self._books = books

    async def kept(self, worker_id: UUID) -> Mapping[bytes, bytes]:
        """How calls ended that a dead process had answered and not told yet."""
        found = await self._books.fetch("SELECT * FROM weighbridge_calls.kept($1)", worker_id)
        return {row["request_id"].bytes: row["settlement"] for row in found}

    async def resume(
        self, worker_id: UUID, begun: Mapping[bytes, bytes], numbers: Mapping[bytes, int]
    ) -> set[bytes]:
        """Let others begin again what a dead process had begun."""
        found = await self._books.fetch(
            "SELECT weighbridge_calls.resume($1, $2, $3, $4)",
            worker_id,
            [UUID(bytes=each) for each in begun],
            list(begun.values()),
            [numbers[each] for each in begun],
        )
        return {row[0].bytes for row in found}

    async def release(self, worker_id: UUID) -> None:
        """Let callers have what is in the books."""
        await self._books.fetch("SELECT weighbridge_calls.release($1)", worker_id)
