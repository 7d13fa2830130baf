"""`weighbridge engine`: the replicas of the local vLLM under supervision, as a child of `up` or beside `serve`.

It ends with status 78 when no restart would help (no such platform, no room, no recipe that fits, five failed starts of every replica):
whoever keeps it running can tell that from a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from engines.http1.transport import Http1Transport
from engines.local import gauges
from engines.local.cards import cards_at_hand
from engines.local.environment import install
from engines.local.launch import DEMO_NAME, EngineSpec, command
from engines.local.models import LocalModel, NoSuchModel, local_model
from engines.local.serving import Serving, read_wish, servings
from engines.local.sources import EngineUnavailable
from engines.local.supervise import EngineState, Phase, keep_all
from engines.mixture.recipe import CannotFit
from gateway.embedded.places import socket_folder
from gateway.engine_notes import EngineNote, ReplicaNote, write_note
from gateway.settings import MOST_REPLICAS, Settings
from gateway.supervise.engine_adapters import ReplicaAdapters

GIVEN_UP = 78
_UNIX = "unix:"
_LOADING_SECONDS = 3600.0
"""A large model may have to be fetched before its weights are read."""


def _socket_name(number: int) -> str:
    return f"engine-{number}.sock"


def own_engine_url(settings: Settings) -> str:
    """The private sockets of this home's own engine, in the form of WEIGHBRIDGE_ENGINE_URL."""
    longest = len(_socket_name(MOST_REPLICAS - 1))
    folder = socket_folder(settings.home / "run", "engine", None, longest_name=longest)
    return ",".join(f"{_UNIX}{folder / _socket_name(number)}" for number in range(settings.engine_replicas))


def engine(settings: Settings) -> int:
    """Install the engine where it is missing, then run it until asked to stop."""
    addresses = (settings.engine_url or own_engine_url(settings)).split(",")
    if settings.engine == "none" or not all(each.startswith(_UNIX) for each in addresses):
        print(
            "weighbridge: WEIGHBRIDGE_ENGINE or WEIGHBRIDGE_ENGINE_URL says that someone else runs the engine; "
            "unset it to run one here.",
            file=sys.stderr,
        )
        return 1
    return asyncio.run(_supervise(settings, addresses))


def arranged(settings: Settings, replicas: int) -> tuple[LocalModel, list[Serving]]:
    """What this machine serves and how; raises NoSuchModel, or CannotFit with the arithmetic."""
    model = local_model(settings.engine_model)
    wish = read_wish(settings.engine_recipe)
    return model, servings(model, cards_at_hand(), free_memory(), wish, replicas)


def free_memory() -> int:
    """Bytes that programs could still take."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


async def _supervise(settings: Settings, addresses: Sequence[str]) -> int:
    try:
        model, how = await asyncio.to_thread(arranged, settings, len(addresses))
    except (NoSuchModel, CannotFit) as problem:
        Replicas(settings.home, addresses).unavailable(str(problem))
        return GIVEN_UP
    replicas = Replicas(settings.home, addresses, model)
    running = asyncio.ensure_future(_run(settings.home, addresses, replicas, model, how))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await replicas.stop()
    return GIVEN_UP if replicas.failed else 0


async def _run(
    home: Path, addresses: Sequence[str], replicas: Replicas, model: LocalModel, how: Sequence[Serving]
) -> None:
    replicas.installing(f"serving {how[0].says}")
    try:
        made = await install(home / "engine-venv", replicas.installing)
    except EngineUnavailable as problem:
        replicas.unavailable(str(problem))
        return
    specs = [
        spec_of(
            model,
            serving,
            python=made.python,
            socket=Path(address.removeprefix(_UNIX)),
            cache=home / "engine-cache",
            log=home / "logs" / f"vllm-{number}.log",
        )
        for number, (address, serving) in enumerate(zip(addresses, how, strict=True))
    ]
    replicas.started_as([tuple(command(spec)) for spec in specs])
    await keep_all(specs, replicas.changed)


def spec_of(
    model: LocalModel, serving: Serving, *, python: Path, socket: Path, cache: Path, log: Path
) -> EngineSpec:
    """One replica of the model, as it is to be started."""
    spec = EngineSpec(
        python=python,
        socket=socket,
        cache=cache,
        log=log,
        model=model.source,
        served_name=model.name,
        context=serving.context,
        device=serving.device,
        kv_cache_bytes=serving.cache_bytes,
        card=serving.cards,
        extra=serving.options,
    )
    if model.ships:
        return spec
    # Endpoints of the first start ask for the name of the model that ships; answers have the true one.
    return replace(spec, also_named=(DEMO_NAME,), ready_within=_LOADING_SECONDS, threads=os.cpu_count() or 1)


class Replicas:
    """What is known of every replica: told on the log, in the note for workers, and to what keeps the adapters."""

    def __init__(self, home: Path, addresses: Sequence[str], model: LocalModel | None = None) -> None:
        self._run_dir = home / "run"
        self._began = time.monotonic()
        self._notes = [ReplicaNote(address=address, since=time.time()) for address in addresses]
        self._adapters = ReplicaAdapters(home, addresses, model)
        self._asking: dict[int, asyncio.Task[None]] = {}
        self._leave_note()

    @property
    def failed(self) -> bool:
        """Whether none of them will come back."""
        return all(each.phase == Phase.FAILED for each in self._notes)

    def installing(self, line: str) -> None:
        """A line of progress of the set-up that all share."""
        for number in range(len(self._notes)):
            self._note(number, phase=Phase.INSTALLING, detail=line)
        self._say("engine", Phase.INSTALLING, line)

    def unavailable(self, why: str) -> None:
        """The set-up cannot be made here."""
        for number in range(len(self._notes)):
            self._note(number, phase=Phase.FAILED, detail=why)
        self._say("engine", Phase.FAILED, why)

    def started_as(self, commands: Sequence[tuple[str, ...]]) -> None:
        """What each is started with."""
        for number, each in enumerate(commands):
            self._note(number, command=each)

    def changed(self, number: int, state: EngineState) -> None:
        """A report of one replica's supervision."""
        # First the adapters: a replica must not look whole before the note says what it lacks.
        self._adapters.follow(number, state)
        self._note(
            number,
            phase=state.phase,
            detail=state.detail,
            pid=state.pid,
            starts=state.starts,
            since=time.time(),
        )
        self._say(f"engine-{number}", state.phase, state.detail)
        if (asking := self._asking.pop(number, None)) is not None:
            asking.cancel()
        if state.phase is Phase.READY:
            self._asking[number] = asyncio.create_task(self._ask_version(number))

    async def stop(self) -> None:
        """Let go of what follows them, and say that they are gone."""
        self._adapters.stop()
        for number, each in enumerate(self._notes):
            if each.phase != Phase.FAILED:
                self._note(number, phase="stopped", detail="", pid=None, since=time.time())
        for each in self._asking.values():
            each.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)

    async def _ask_version(self, number: int) -> None:
        transport = Http1Transport(self._notes[number].address)
        try:
            told = await gauges.version(transport)
        finally:
            await transport.aclose()
        self._note(number, version=told)
        self._say(f"engine-{number}", "is", f"vLLM {told or 'of an unknown version'}")

    def _note(self, number: int, **changed: object) -> None:
        self._notes[number] = msgspec.structs.replace(self._notes[number], **changed)
        self._leave_note()

    def _leave_note(self) -> None:
        # A full disk must not end the engines: the note only describes.
        with contextlib.suppress(OSError):
            write_note(self._run_dir, EngineNote.of(self._notes))

    def _say(self, who: str, what: str, detail: str) -> None:
        print(
            f"{time.monotonic() - self._began:.0f} s {who} {what}{f': {detail}' if detail else ''}",
            flush=True,
        )
