"""Cut what runs for a caller that is no longer welcome: a revoked key, a disabled principal, ended tokens.

Looked at on every change of the configuration and never otherwise; a key that cannot be looked up now is looked up
again until it can. What is cut is settled like a call whose client left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from gateway.errors import Unauthenticated, Unavailable
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.line import Line
from policies.catalog import Snapshot
from policies.tokens import stands

REVOKED = "revoked"
"""What `stopped_by` says of a call that was cut."""
_AGAIN_SECONDS = 0.5

log = logging.getLogger(__name__)


class Revocations:
    """Watches the running calls of one worker."""

    def __init__(self, line: Line, running: Mapping[asyncio.Task[Any], Exchange]) -> None:
        self._line = line
        self._running = running
        self._touched: set[str] = set()
        self._due = asyncio.Event()

    def changed(self, touched: frozenset[str]) -> None:
        """Take note of a change; the catalog calls it."""
        self._touched |= touched
        self._due.set()

    async def watch(self) -> None:
        """Look at running calls whenever something changed, for ever."""
        while True:
            await self._due.wait()
            self._due.clear()
            touched, self._touched = self._touched, set()
            try:
                await self._look(self._line.catalog.snapshot, touched)
            except Exception as error:
                # Whatever went wrong, a revoked caller must not live on for it.
                if not isinstance(error, Unavailable):
                    log.exception("running calls could not be compared with a change")
                self._touched |= touched
                self._due.set()
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _look(self, snapshot: Snapshot, touched: set[str]) -> None:
        for task, exchange in list(self._running.items()):
            caller = exchange.caller
            welcome = stands(snapshot, caller)
            if welcome and ("*" in touched or f"api_key:{caller.key_id}" in touched):
                welcome = await self._holds(exchange.credential, snapshot)
            # It may have ended while we asked.
            if not welcome and task in self._running and not exchange.settled:
                exchange.stopped_by = REVOKED
                task.cancel()

    async def _holds(self, credential: str, snapshot: Snapshot) -> bool:
        if self._line.keys.known(credential) is not None:
            return True
        try:
            await self._line.keys.verify(credential, snapshot)
        except Unauthenticated:
            return False
        return True
