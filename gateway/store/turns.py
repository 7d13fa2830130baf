"""Kept turns of conversations in PostgreSQL, sealed; written behind the calls, and found by those that follow at once.

What is not written yet is found here; what another worker has not written yet is waited for, as an id tells how young it
is. A worker that is killed loses what it has not written: milliseconds' worth, or as much as PostgreSQL was away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import zlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import msgspec

from gateway.errors import NotFound, Unavailable
from gateway.pipeline.turns import Owner, Turn
from gateway.security.sealing import SealError, Sealing
from gateway.store.database import FAILED, Connections

MOST_WAITING = 64 << 20
"""Bytes that may wait to be written."""
_AT_ONCE = 64
_AGAIN_SECONDS = 0.5
_LAST_SECONDS = 5.0
_YOUNG_MS = 30_000
_PATIENCE_SECONDS = 2.0
_READERS = 2
"""Connections of the pool that look-ups may take: keys are looked up there too."""
_ID = re.compile(r"resp_([0-9a-f]{32})", re.ASCII)
_INSERT = """
    INSERT INTO gateway.kept_responses (id, previous_id, principal_id, endpoint_id, kept_at, content_sealed)
    VALUES ($1, $2, $3, $4, to_timestamp($5::bigint / 1000.0), $6) ON CONFLICT (id) DO NOTHING
"""
_COLUMNS = "id, previous_id, principal_id, endpoint_id, content_sealed, (extract(epoch FROM kept_at) * 1000)::bigint AS at_ms"
_CONVERSATION = f"""
    WITH RECURSIVE conversation AS (
        SELECT r.*, 1 AS place FROM gateway.kept_responses r
         WHERE id = $1 AND principal_id = $2 AND endpoint_id = $3
           AND kept_at > to_timestamp($4::bigint / 1000.0)
        UNION ALL
        SELECT r.*, c.place + 1 FROM conversation c JOIN gateway.kept_responses r ON r.id = c.previous_id
         WHERE r.principal_id = $2 AND r.endpoint_id = $3
           AND r.kept_at > to_timestamp($4::bigint / 1000.0) AND c.place < 10000
    ) SELECT {_COLUMNS} FROM conversation ORDER BY place
"""  # noqa: S608
_ONE = f"SELECT {_COLUMNS} FROM gateway.kept_responses WHERE id = $1 AND principal_id = $2"  # noqa: S608
_FORGET = "DELETE FROM gateway.kept_responses WHERE id = $1 AND principal_id = $2"
log = logging.getLogger(__name__)


class _Waiting(NamedTuple):
    turn: Turn
    content: bytes


class StoredTurns:
    """The port `Turns` of one process."""

    def __init__(
        self, connections: Connections, sealing: Sealing, *, wall_ms: Callable[[], int] | None = None
    ) -> None:
        self._connections = connections
        self._sealing = sealing
        self._wall_ms = wall_ms or (lambda: time.time_ns() // 1_000_000)
        self._waiting: dict[str, _Waiting] = {}
        self._bytes = 0
        self._written = asyncio.Condition()
        self._fresh = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._readers = asyncio.Semaphore(_READERS)
        self._complained = False

    def keep(self, turn: Turn) -> None:
        """Keep a turn; returns at once, and what follows it finds it."""
        content = msgspec.json.encode({"asked": turn.asked, "response": turn.response})
        if self._bytes + len(content) > MOST_WAITING:
            self._complain("too many wait to be written")
            return
        self._waiting[turn.id] = _Waiting(turn, content)
        self._bytes += len(content)
        self._fresh.set()
        if self._writer is None:
            self._writer = asyncio.create_task(self._write(), name="kept responses")

    async def conversation(self, owner: Owner, turn_id: str) -> list[Turn]:
        """The turns up to that one, the first one first; raises NotFound where one is missing, or Unavailable."""
        found: list[Turn] = []
        following: str | None = turn_id
        while following is not None:
            waiting = self._waiting.get(following)
            if waiting is None:
                found += await self._earlier(owner, following)
                break
            turn = waiting.turn
            if (turn.principal_id, turn.endpoint_id) != (owner.principal_id, owner.endpoint_id):
                break
            found.append(turn)
            following = turn.previous
        if not found or found[0].id != turn_id:
            raise _missing(turn_id, "there is none of yours at this endpoint, or it is kept no longer")
        if found[-1].previous is not None:
            raise _missing(turn_id, "the beginning of its conversation is kept no longer")
        return found[::-1]

    async def turn(self, principal_id: str, turn_id: str) -> Turn:
        """One turn, whichever endpoint's; raises NotFound or Unavailable."""
        waiting = self._waiting.get(turn_id)
        if waiting is not None:
            if waiting.turn.principal_id != principal_id:
                raise NotFound(f"There is no response {turn_id[:64]!r} of yours.")
            return waiting.turn
        rows = await self._found(_ONE, turn_id, principal_id)
        if not rows:
            raise NotFound(f"There is no response {turn_id[:64]!r} of yours.")
        return rows[0]

    async def forget(self, principal_id: str, turn_id: str) -> None:
        """Delete one turn; raises NotFound or Unavailable."""
        turn = await self.turn(principal_id, turn_id)
        # What is on its way to the table would come back after it was deleted there.
        if not await self._until(lambda: turn.id not in self._waiting, _PATIENCE_SECONDS):
            raise _away()
        async with self._reading() as connection:
            await connection.execute(_FORGET, _uuid(turn_id), principal_id)

    async def close(self) -> None:
        """Write what waits, for a while."""
        if self._writer is None:
            return
        if not await self._until(lambda: not self._waiting, _LAST_SECONDS):
            log.warning("%d responses are lost: PostgreSQL was away to the end.", len(self._waiting))
        self._writer.cancel()
        await asyncio.gather(self._writer, return_exceptions=True)

    async def _until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Wait until something holds of what waits; False where it does not in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._written:
                await self._written.wait_for(holds)
        return holds()

    async def _earlier(self, owner: Owner, turn_id: str) -> list[Turn]:
        """From that turn back, the last one first."""
        return await self._found(
            _CONVERSATION, turn_id, owner.principal_id, owner.endpoint_id, owner.since_ms
        )

    async def _found(self, statement: str, turn_id: str, *given: Any) -> list[Turn]:
        """What a look-up finds; of a young turn, what it finds once whoever made it has written it."""
        identity = _uuid(turn_id)
        if identity is None:
            return []
        until = time.monotonic() + _PATIENCE_SECONDS
        pause = 0.01
        while True:
            async with self._reading() as connection:
                rows = await connection.fetch(statement, identity, *given)
            if rows:
                # Megabytes, at worst: not in the event loop's time.
                return await asyncio.to_thread(self._all_opened, rows)
            age = self._wall_ms() - int.from_bytes(identity.bytes[:6], "big")
            if not -_YOUNG_MS < age < _YOUNG_MS or time.monotonic() > until:
                return []
            await asyncio.sleep(pause)
            pause = min(0.2, pause * 2)

    @contextlib.asynccontextmanager
    async def _reading(self) -> AsyncGenerator[asyncpg.Connection]:
        try:
            async with self._readers, self._connections.begun() as connection:
                yield connection
        except FAILED as exc:
            raise _away() from exc

    async def _write(self) -> None:
        while True:
            await self._fresh.wait()
            self._fresh.clear()
            while self._waiting:
                batch = list(self._waiting.values())[:_AT_ONCE]
                try:
                    rows = await asyncio.to_thread(self._rows, batch)
                    async with self._connections.begun() as connection:
                        await connection.executemany(_INSERT, rows)
                except FAILED as exc:
                    self._complain(type(exc).__name__)
                    await asyncio.sleep(_AGAIN_SECONDS)
                    continue
                except Exception:
                    log.exception("%d responses could not be kept", len(batch))
                for each in batch:
                    del self._waiting[each.turn.id]
                    self._bytes -= len(each.content)
                self._complained = False
                async with self._written:
                    self._written.notify_all()

    def _complain(self, why: str) -> None:
        if not self._complained:
            log.warning("Responses wait to be kept, or are not kept: %s.", why)
            self._complained = True

    def _rows(self, batch: Sequence[_Waiting]) -> list[tuple[Any, ...]]:
        return [self._row(each.turn, zlib.compress(each.content, 1)) for each in batch]

    def _row(self, turn: Turn, packed: bytes) -> tuple[Any, ...]:
        return (
            _uuid(turn.id),
            None if turn.previous is None else _uuid(turn.previous),
            turn.principal_id,
            turn.endpoint_id,
            turn.at_ms,
            self._sealing.seal(packed, _subject(turn.id, turn.principal_id)),
        )

    def _all_opened(self, rows: Sequence[Mapping[Any, Any]]) -> list[Turn]:
        return [self._opened(row) for row in rows]

    def _opened(self, row: Mapping[Any, Any]) -> Turn:
        turn_id, principal_id = f"resp_{row['id'].hex}", str(row["principal_id"])
        try:
            opened = self._sealing.open(row["content_sealed"], _subject(turn_id, principal_id))
        except SealError as exc:
            raise _missing(turn_id, f"it cannot be read: {exc}") from exc
        content = msgspec.json.decode(zlib.decompress(opened))
        return Turn(
            id=turn_id,
            previous=None if row["previous_id"] is None else f"resp_{row['previous_id'].hex}",
            principal_id=principal_id,
            endpoint_id=str(row["endpoint_id"]),
            at_ms=row["at_ms"],
            asked=content["asked"],
            response=content["response"],
        )


def _uuid(turn_id: str) -> UUID | None:
    found = _ID.fullmatch(turn_id)
    return None if found is None else UUID(found[1])


def _subject(turn_id: str, principal_id: str) -> str:
    return f"response {turn_id} of {principal_id}"


def _missing(turn_id: str, why: str) -> NotFound:
    return NotFound(
        f"The response {turn_id[:64]!r} cannot be followed: {why}.",
        code="previous_response_not_found",
        param="previous_response_id",
    )


def _away() -> Unavailable:
    return Unavailable("Kept responses cannot be reached at this moment; try again.", retry_after_seconds=2)
