"""The adapters of this deployment, and whether the local engine can be called.

A worker asks the engine's /health itself, so that an engine that someone else runs is treated alike; why an engine
of our own is not up yet (installing, starting, given up) is read from the note that its supervisor leaves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from engines.errors import EngineError
from engines.http1.transport import Http1Transport
from engines.openai import OpenAIEngine
from engines.transport import Transport
from policies.catalog import EntityKind, ServedEntity

NOTE = "engine.json"
_UNREADY_SECONDS = 0.5
_READY_SECONDS = 2.0
_FAILURES_BEFORE_UNFIT = 2


class EngineNote(msgspec.Struct):
    """What the engine's supervisor says of it: `installing`, `starting`, `ready` or `failed`, and why."""

    phase: str
    detail: str = ""


def write_note(run_dir: Path, note: EngineNote) -> None:
    """Leave the note for the workers, whole or not at all."""
    run_dir.mkdir(parents=True, exist_ok=True)
    fresh = run_dir / f"{NOTE}.new"
    fresh.write_bytes(msgspec.json.encode(note))
    fresh.replace(run_dir / NOTE)


def read_note(run_dir: Path) -> EngineNote | None:
    """The note as it was last left; None where there is none that can be read."""
    try:
        return msgspec.json.decode((run_dir / NOTE).read_bytes(), type=EngineNote)
    except (OSError, msgspec.MsgspecError):
        return None


class EngineWatch:
    """The line's `Engines`: adapters by address, and the local engine's fitness."""

    def __init__(
        self,
        engine_url: str | None,
        run_dir: Path,
        *,
        transport: Callable[[str], Transport] = Http1Transport,
    ) -> None:
        self._url = engine_url
        self._run_dir = run_dir
        self._transport = transport
        self._adapters: dict[str | None, OpenAIEngine] = {}
        self._reason: str | None = "the engine has not been reached yet"
        self._gone = False
        self._failures = 0
        self._task: asyncio.Task[None] | None = None
        self.ready_since: float | None = None
        if engine_url is None:
            self._reason = (
                "this deployment has no local engine; set WEIGHBRIDGE_ENGINE_URL or WEIGHBRIDGE_ENGINE=vllm"
            )
            self._gone = True
        else:
            self._adapters[None] = OpenAIEngine(
                transport(engine_url.removesuffix("/").removesuffix("/v1")), is_vllm=True
            )

    @property
    def local_reason(self) -> str | None:
        """Why the local engine cannot be called, None if it can."""
        return self._reason

    def adapter(self, entity: ServedEntity) -> OpenAIEngine:
        """The adapter of an entity's address."""
        address = None if entity.kind is EntityKind.LOCAL else entity.base_url
        adapter = self._adapters.get(address)
        if adapter is None:
            if address is None:
                raise EngineError("the entity has no address")
            adapter = OpenAIEngine(
                self._transport(address.removesuffix("/").removesuffix("/v1")),
                is_vllm=entity.provider == "vllm",
            )
            self._adapters[address] = adapter
        return adapter

    def unfit(self, entity: ServedEntity) -> str | None:
        """Why the entity cannot be called now."""
        if entity.kind is EntityKind.LOCAL:
            return self._reason
        return None if entity.base_url else "it has no address"

    def gone_for_good(self, entity: ServedEntity) -> bool:
        """Whether waiting is pointless."""
        return self._gone if entity.kind is EntityKind.LOCAL else True

    async def start(self) -> None:
        """Probe once, then go on in the background."""
        if self._url is not None:
            await self._probe()
            self._task = asyncio.create_task(self._watch(), name="engine watch")

    async def stop(self) -> None:
        """Stop probing and close all connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for adapter in self._adapters.values():
            await adapter.aclose()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_READY_SECONDS if self._reason is None else _UNREADY_SECONDS)
            await self._probe()

    async def _probe(self) -> None:
        try:
            response = await self._adapters[None].transport.get("/health")
            fault = None if response.status == 200 else f"its /health answers {response.status}"
        except EngineError:
            fault = "it does not answer"
        if fault is None:
            if self._reason is not None:
                self.ready_since = time.monotonic()
            self._reason, self._gone, self._failures = None, False, 0
            return
        self._failures += 1
        if self._reason is not None or self._failures >= _FAILURES_BEFORE_UNFIT:
            note = read_note(self._run_dir)
            self._gone = note is not None and note.phase == "failed"
            self._reason = (
                f"the local engine is {note.phase}"
                if note is not None and note.phase != "ready"
                else f"the local engine is away: {fault}"
            )
            if note is not None and note.detail and note.phase in ("failed", "installing"):
                self._reason += f" ({note.detail})"
