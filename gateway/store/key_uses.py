"""When API keys were last used: noted in memory by the call, written behind once a minute.

What cannot be written is kept for the next time; a call never waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.errors import GatewayError
from gateway.store.reading import translated
from gateway.store.tables.identity import api_key_uses

_SECONDS = 60.0
_GOODBYE_SECONDS = 2.0

log = logging.getLogger(__name__)


class KeyUses:
    """The keys used since they were last written; `fresh` stays the same set."""

    def __init__(self, engine: AsyncEngine, clock: Callable[[], float]) -> None:
        self.fresh: set[str] = set()
        self._engine = engine
        self._clock = clock
        self._writer: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write behind."""
        self._writer = asyncio.create_task(self._write_for_ever(), name="key uses")

    async def stop(self) -> None:
        """Write what is left, then stop."""
        if self._writer is not None:
            self._writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writer
            self._writer = None
        # What cannot be written in a moment is not worth a slow end.
        with contextlib.suppress(GatewayError, TimeoutError):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await self.write()

    async def write(self) -> None:
        """Write them; raises Unavailable and keeps them when PostgreSQL is away."""
        used = sorted(self.fresh)
        if not used:
            return
        self.fresh.clear()
        at = datetime.fromtimestamp(int(self._clock()), UTC)
        try:
            with translated():
                async with self._engine.begin() as connection:
                    for some in _batches(used):
                        statement = insert(api_key_uses).values(
                            [{"key_id": each, "last_used_at": at} for each in some]
                        )
                        latest = func.greatest(api_key_uses.c.last_used_at, statement.excluded.last_used_at)
                        await connection.execute(
                            statement.on_conflict_do_update(
                                index_elements=["key_id"], set_={"last_used_at": latest}
                            )
                        )
        except BaseException:
            self.fresh.update(used)
            raise

    async def _write_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_SECONDS)
            try:
                await self.write()
            except GatewayError:
                log.info("When keys were last used could not be written yet; it is kept.")


async def last_uses(connection: AsyncConnection, ids: list[str]) -> Mapping[str, datetime]:
    """When each of these keys was last used, for those that were."""
    found = await connection.execute(select(api_key_uses).where(api_key_uses.c.key_id.in_(ids)))
    return {row.key_id: row.last_used_at for row in found}


def _batches(ids: list[str], size: int = 1000) -> Iterator[list[str]]:
    """A statement takes 32,767 parameters at most."""
    for start in range(0, len(ids), size):
        yield ids[start : start + size]
