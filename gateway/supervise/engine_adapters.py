"""Keep the adapters of every replica as the folders say, and leave the workers one note on all of them.

A replica that is not ready has none: the note says so before it can be called again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from engines.http1.transport import Http1Transport
from engines.local.adapter_fit import fitting
from engines.local.adapter_keeper import AdapterKeeper, Standing, together
from engines.local.launch import SHIPPED_ADAPTERS
from engines.local.models import LocalModel
from engines.local.supervise import EngineState, Phase
from gateway.adapter_notes import FOLDER, write_standings


class ReplicaAdapters:
    """Follows the replicas' states; `stop` ends it."""

    def __init__(self, home: Path, addresses: Sequence[str], model: LocalModel | None = None) -> None:
        # A mounted or uploaded adapter goes before the one that ships under the same name.
        self._folders = (SHIPPED_ADAPTERS, home / FOLDER)
        self._run_dir = home / "run"
        self._addresses = addresses
        self._model = model
        self._keeping: dict[int, asyncio.Task[None]] = {}
        self._standings: dict[str, Mapping[str, Standing]] = {}

    def follow(self, number: int, state: EngineState) -> None:
        """One replica's new state."""
        self._end(number)
        if state.phase is Phase.READY:
            self._keeping[number] = asyncio.create_task(self._keep(number), name=f"adapters of {number}")

    def stop(self) -> None:
        """No replica has any from now on."""
        for number in range(len(self._addresses)):
            self._end(number)

    def _end(self, number: int) -> None:
        keeping = self._keeping.pop(number, None)
        if keeping is not None:
            keeping.cancel()
        found, wrong = fitting(self._folders, self._model)
        waiting = {
            name: Standing(loaded=False, rank=each.rank, size=each.size) for name, each in found.items()
        }
        failed = {name: Standing(loaded=False, reason=why) for name, why in wrong.items()}
        self._tell(number, waiting | failed)

    def _tell(self, number: int, standings: Mapping[str, Standing]) -> None:
        self._standings[self._addresses[number]] = standings
        # A full disk must not end the engines: the note only describes.
        with contextlib.suppress(OSError):
            write_standings(self._run_dir, together(self._standings))

    async def _keep(self, number: int) -> None:
        transport = Http1Transport(self._addresses[number])
        try:
            await AdapterKeeper(
                transport, self._folders, lambda standings: self._tell(number, standings), self._model
            ).keep()
        finally:
            await transport.aclose()
