"""When API keys were last used: noted in memory by the call, written behind once a minute.

What cannot be written is kept for the next time; a call never waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from gateway.errors import GatewayError
from gateway.store.database import Connections, reached

_SECONDS = 60.0
_GOODBYE_SECONDS = 2.0
_WRITE = """
    INSERT INTO gateway.api_key_uses AS known (key_id, last_used_at) SELECT unnest($1::uuid[]), $2
    ON CONFLICT (key_id) DO UPDATE SET last_used_at = greatest(known.last_used_at, excluded.last_used_at)
"""

log = logging.getLogger(__name__)


class KeyUses:
    """The keys used since they were last written; `fresh` stays the same set."""

    def __init__(self, connections: Connections, clock: Callable[[], float]) -> None:
        self.fresh: set[str] = set()
        self._connections = connections
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
            with reached():
                async with self._connections.begun() as connection:
                    await connection.execute(_WRITE, used, at)
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
