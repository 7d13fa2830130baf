"""The adapters of this deployment, and whether the local engine can be called.

A worker asks each replica's /health itself, so that an engine that someone else runs is treated alike; why an engine
of our own is not up yet (installing, starting, given up), or is about to leave, is read from the note that its
supervisor leaves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from engines.adapter import Adapter
from engines.beats import until_beat
from engines.errors import EngineError
from engines.experts import ExpertLoad
from engines.http1.transport import Http1Transport
from engines.openai import OpenAIEngine
from engines.providers import PROVIDERS, speaks_responses
from engines.transport import Timeouts, Transport
from gateway.adapter_notes import read_standings
from gateway.engine_notes import NOTE, EngineNote, read_note
from gateway.providers.adapters import ProviderAdapters
from policies.calling import PLAIN_ENTITY, EntityRules
from policies.catalog import EntityKind, ServedEntity

NO_ENGINE = "this deployment has no local engine; set WEIGHBRIDGE_ENGINE_URL or WEIGHBRIDGE_ENGINE=vllm"
NO_EMBEDDER = "the embedding model is not served here; set WEIGHBRIDGE_EMBEDDER=vllm and start again"
_VLLM = PROVIDERS["vllm"]
_UNREADY_SECONDS = 0.5
_READY_SECONDS = 2.0
_FAILURES_BEFORE_UNFIT = 2


class _Replica:
    """One address of the local engine."""

    __slots__ = ("address", "engine", "failures", "fault")

    def __init__(self, address: str, engine: OpenAIEngine) -> None:
        self.address = address
        self.engine = engine
        self.failures = 0
        self.fault: str | None = "it has not been reached yet"

    async def probe(self) -> None:
        """Ask it how it is; one that was up is believed to be until it fails twice."""
        try:
            response = await self.engine.transport.get("/health")
            fault = None if response.status == 200 else f"its /health answers {response.status}"
        except EngineError:
            fault = "it does not answer"
        self.failures = 0 if fault is None else self.failures + 1
        if fault is None or self.fault is not None or self.failures >= _FAILURES_BEFORE_UNFIT:
            self.fault = fault


class EngineWatch:
    """The line's `Engines`: adapters by address, and the local engine's fitness."""

    def __init__(
        self,
        engine_url: str | None,
        run_dir: Path,
        *,
        transport: Callable[..., Transport] = Http1Transport,
        providers: ProviderAdapters | None = None,
        note: str = NOTE,
        absent: str = NO_ENGINE,
        beside: Mapping[str, EngineWatch] | None = None,
    ) -> None:
        """`engine_url` names one engine, or with commas between them several that serve the same.

        `beside` has the models that engines of their own serve, by name; they start and stop with this one.
        """
        self._note_name = note
        self._beside = beside or {}
        self._url = engine_url
        self._run_dir = run_dir
        self._transport = transport
        self._providers = providers
        self._adapters: dict[object, OpenAIEngine] = {}
        self.experts = ExpertLoad()
        """What answers of the local engine told of its experts, until it is taken."""
        self._replicas: list[_Replica] = []
        self._up: tuple[str, ...] = ()
        self._up_with: dict[str, tuple[str, ...]] = {}
        """Where adapters can be called that not every replica has."""
        self._reason: str | None = "the engine has not been reached yet"
        self._gone = False
        self._adapters_standing = read_standings(run_dir)
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self.ready_since: float | None = None
        if engine_url is None:
            self._reason = absent
            self._gone = True
        else:
            for each in engine_url.split(","):
                address = _trimmed(each.strip())
                engine = self._adapters[address] = OpenAIEngine(
                    transport(address), is_vllm=True, experts=self.experts
                )
                self._replicas.append(_Replica(address, engine))

    @property
    def local_reason(self) -> str | None:
        """Why the local engine cannot be called, None if it can."""
        return self._reason

    @property
    def replicas(self) -> tuple[int, int]:
        """How many replicas of the local engine there are, and how many of them can be called."""
        return len(self._replicas), len(self._up)

    @property
    def missing(self) -> str | None:
        """How many replicas cannot be called and why the first of them, None where all can."""
        away = [each.fault or "it is draining" for each in self._replicas if each.address not in self._up]
        return f"{len(away)} of {len(self._replicas)} cannot be called: {away[0]}" if away else None

    def addresses(self, entity: ServedEntity) -> tuple[str, ...]:
        """Where the entity can be called now."""
        if entity.kind is EntityKind.LOCAL:
            if self._beside and (other := self._beside.get(entity.model)) is not None:
                return other.addresses(entity)
            return self._up_with.get(entity.model, self._up) if self._up_with else self._up
        replicas = entity.rules.replicas
        return (entity.base_url or "", *replicas) if replicas else (entity.base_url or "",)

    def adapter(self, entity: ServedEntity, address: str) -> Adapter:
        """The adapter of an entity at one of its addresses; raises EngineError for one that is not to be called."""
        rules = entity.rules
        if entity.kind is not EntityKind.LOCAL:
            if self._providers is None or not address:
                raise EngineError("the entity has no address")
            return self._providers.adapter(entity, address, _timeouts(rules))
        if self._beside and (other := self._beside.get(entity.model)) is not None:
            return other.adapter(entity, address)
        responses = bool(entity.options) and speaks_responses(_VLLM, "", dict(entity.options))
        key = address if rules is PLAIN_ENTITY and not responses else (address, rules.timed, responses)
        adapter = self._adapters.get(key)
        if adapter is None:
            adapter = OpenAIEngine(
                self._transport(_trimmed(address), timeouts=_timeouts(rules)),
                is_vllm=True,
                responses=responses,
                experts=self.experts,
            )
            self._adapters[key] = adapter
        return adapter

    def unfit(self, entity: ServedEntity) -> str | None:
        """Why the entity cannot be called now."""
        if entity.kind is EntityKind.LOCAL:
            if self._beside and (other := self._beside.get(entity.model)) is not None:
                return other.unfit(entity)
            return self._reason or (self._adapter_reason(entity.model) if self._adapters_standing else None)
        return "it has no address" if self._providers is None else self._providers.unfit(entity)

    def gone_for_good(self, entity: ServedEntity) -> bool:
        """Whether waiting is pointless."""
        if entity.kind is not EntityKind.LOCAL:
            return True
        if (other := self._beside.get(entity.model)) is not None:
            return other.gone_for_good(entity)
        standing = self._adapters_standing.get(entity.model)
        return self._gone or (standing is not None and not standing.loaded and bool(standing.reason))

    def unreachable(self, entity: ServedEntity, address: str) -> None:
        """Look at once whether the replica is there: it refuses calls for seconds before the next look would be due."""
        if entity.kind is not EntityKind.LOCAL:
            return
        if (other := self._beside.get(entity.model)) is not None:
            other.unreachable(entity, address)
            return
        for each in self._replicas:
            if each.address == address and each.fault is None:
                # A connection may break while the replica is well, so it is asked; but one more failure is enough.
                each.failures = max(each.failures, _FAILURES_BEFORE_UNFIT - 1)
                self._hurry.set()

    def _adapter_reason(self, model: str) -> str | None:
        standing = self._adapters_standing.get(model)
        if standing is None or (standing.loaded and self._up_with.get(model, self._up)):
            return None
        return f"adapter {model!r} " + (
            f"cannot be loaded: {standing.reason}"
            if standing.reason and not standing.loaded
            else "is being loaded"
        )

    async def start(self) -> None:
        """Probe once, then go on in the background."""
        for each in self._beside.values():
            await each.start()
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
        for each in self._beside.values():
            await each.stop()

    async def _watch(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(
                    until_beat(_READY_SECONDS if self._reason is None else _UNREADY_SECONDS)
                ):
                    await self._hurry.wait()
            self._hurry.clear()
            await self._probe()

    async def _probe(self) -> None:
        await asyncio.gather(*(each.probe() for each in self._replicas))
        note = read_note(self._run_dir, self._note_name)
        self._adapters_standing = read_standings(self._run_dir)
        leaving = note.draining() if note is not None else frozenset[str]()
        self._up = tuple(
            each.address for each in self._replicas if each.fault is None and each.address not in leaving
        )
        self._up_with = {
            name: tuple(each for each in self._up if each not in standing.lacking)
            for name, standing in self._adapters_standing.items()
            if standing.lacking
        }
        if self._up:
            if self._reason is not None:
                self.ready_since = time.monotonic()
            self._reason, self._gone = None, False
            return
        self._gone = note is not None and note.phase == "failed"
        self._reason = self._why(note)

    def _why(self, note: EngineNote | None) -> str:
        """Why no replica can be called."""
        if note is None or note.phase == "ready":
            return f"the local engine is away: {self._replicas[0].fault}"
        detail = f" ({note.detail})" if note.detail and note.phase in ("failed", "installing") else ""
        return f"the local engine is {note.phase}{detail}"


def _trimmed(address: str) -> str:
    return address.removesuffix("/").removesuffix("/v1")


def _timeouts(rules: EntityRules) -> Timeouts:
    """The entity's limits where it has its own. A plain answer's first byte comes with its end."""
    usual = Timeouts()
    total = rules.total_ms / 1000 or usual.total
    return Timeouts(
        connect=rules.connect_ms / 1000 or usual.connect,
        first_byte=max(usual.first_byte, rules.total_ms / 1000, rules.first_token_ms / 1000),
        between=rules.between_ms / 1000 or usual.between,
        total=total,
    )
