"""Exports the head of the audit's chain on a schedule: signed, to a file and to the webhooks that ask for it.

An entry is safe from being cut off unseen once a head behind it was exported; so one is exported at every start too.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.events.outbox import queue
from gateway.ids import RequestIds
from gateway.ids import text as id_text
from gateway.store.audit import Head, read_head
from gateway.store.audit_heads import signed, write_head
from gateway.store.reading import translated

HEAD = "audit.head"


class HeadExport:
    """Exports when it is due and the chain has grown."""

    def __init__(self, engine: AsyncEngine, *, path: Path, key: bytes, every_seconds: int) -> None:
        self._engine = engine
        self._path = path
        self._key = key
        self._every = every_seconds
        self._ids = RequestIds()
        self._last = Head(0, b"")
        self._next = 0.0

    async def turn(self) -> bool:
        """Export if it is time; whether anything was. Raises Unavailable, or OSError where the file cannot be written."""
        if time.monotonic() < self._next:
            return False
        with translated():
            async with self._engine.begin() as connection:
                head = await read_head(connection)
                now = await connection.scalar(select(func.clock_timestamp()))
                if head.number and head != self._last and now is not None:
                    told = signed(head, round(now.timestamp() * 1_000_000), self._key)
                    # The file first: what a webhook is told must be what can be checked here.
                    await asyncio.to_thread(write_head, self._path, told)
                    await queue(connection, HEAD, id_text(self._ids.make()), told, ids=self._ids, now=now)
        exported, self._last = head.number > 0 and head != self._last, head
        self._next = time.monotonic() + self._every
        return exported
