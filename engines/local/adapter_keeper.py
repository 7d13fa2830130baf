"""Keep an engine's adapters as the folders say: load what is new, load again what changed, unload what is gone.

The base model is served whatever happens here; an adapter that does not load is tried again when its files change or
the engine has been restarted, and says why meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from engines.errors import EngineError
from engines.local.adapter_fit import fitting
from engines.local.adapters import Adapter
from engines.local.models import LocalModel
from engines.transport import Response, Transport

LOOK_EVERY_SECONDS = 1.0
_JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Standing:
    """How one adapter stands with the engine."""

    loaded: bool
    reason: str = ""
    """Why it is not loaded; empty where it is."""
    rank: int = 0
    size: int = 0
    lacking: tuple[str, ...] = ()
    """Addresses of replicas that have not loaded it, where others have."""


def together(by_address: Mapping[str, Mapping[str, Standing]]) -> dict[str, Standing]:
    """How adapters stand with several replicas: one that any of them has is loaded, and says where it is not."""
    found: dict[str, Standing] = {}
    for name in sorted({name for standings in by_address.values() for name in standings}):
        each = {address: standings.get(name) for address, standings in by_address.items()}
        having = [one for one in each.values() if one is not None and one.loaded]
        known = [one for one in each.values() if one is not None]
        why = next((one.reason for one in known if one.reason), "")
        if not having:
            found[name] = replace(known[0], reason=why)
            continue
        lacking = tuple(address for address, one in each.items() if one not in having)
        found[name] = replace(having[0], reason=why, lacking=lacking)
    return found


Tell = Callable[[Mapping[str, Standing]], None]


class AdapterKeeper:
    """Follows the folders for one run of one engine."""

    def __init__(
        self, transport: Transport, folders: Sequence[Path], tell: Tell, model: LocalModel | None = None
    ) -> None:
        self._transport = transport
        self._folders = folders
        self._tell = tell
        self._model = model
        self._tried: dict[str, int] = {}
        """Version of each adapter that was loaded, or that failed."""
        self._standing: dict[str, Standing] = {}

    async def keep(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    async def look(self) -> None:
        """Look once, and do what is due."""
        found, wrong = await asyncio.to_thread(fitting, self._folders, self._model)
        before = dict(self._standing)
        for name in [name for name in self._standing if name not in found and name not in wrong]:
            await self._unload(name)
        for name, why in wrong.items():
            if self._standing.get(name, Standing(loaded=False)).loaded:
                await self._unload(name)
            self._standing[name] = Standing(loaded=False, reason=why)
            self._tried.pop(name, None)
        for adapter in found.values():
            if self._tried.get(adapter.name) != adapter.version:
                await self._load(adapter)
        if before != self._standing:
            self._tell(dict(self._standing))

    async def _load(self, adapter: Adapter) -> None:
        loaded = self._standing.get(adapter.name, Standing(loaded=False)).loaded
        asked: dict[str, Any] = {"lora_name": adapter.name, "lora_path": str(adapter.path.resolve())}
        if loaded:
            # In place, so that calls which come meanwhile find one or the other.
            asked["load_inplace"] = True
        reason = await self._ask("/v1/load_lora_adapter", asked)
        if reason is None:
            return
        if reason and "already been loaded" in reason:
            reason = await self._ask("/v1/load_lora_adapter", asked | {"load_inplace": True}) or ""
        self._tried[adapter.name] = adapter.version
        self._standing[adapter.name] = Standing(
            loaded=not reason, reason=reason, rank=adapter.rank, size=adapter.size
        )

    async def _unload(self, name: str) -> None:
        if self._standing[name].loaded:
            reason = await self._ask("/v1/unload_lora_adapter", {"lora_name": name})
            if reason is None:
                return
        self._standing.pop(name, None)
        self._tried.pop(name, None)

    async def _ask(self, path: str, body: dict[str, Any]) -> str | None:
        """Why the engine refused; "" where it did not, None where it did not answer."""
        try:
            answer = await self._transport.post(path, msgspec.json.encode(body), _JSON)
        except EngineError:
            return None
        return "" if answer.status == 200 else _said(answer)


def _said(answer: Response) -> str:
    try:
        message: Any = msgspec.json.decode(answer.body)["error"]["message"]
    except (msgspec.MsgspecError, KeyError, TypeError):
        message = None
    return message[:300] if isinstance(message, str) else f"the engine answers {answer.status}"
