"""`weighbridge embedder`: the small embedding model on a vLLM of its own, as a child of `up` or beside `serve`.

It begins when the local engine is up or has given up, so that it takes no core from the start that people wait for. It ends
with status 78 when no restart would help.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

from engines.local import embedder as model
from engines.local.cards import cards_at_hand
from engines.local.environment import Say, install
from engines.local.launch import EngineSpec
from engines.local.serving import embedding
from engines.local.supervise import EngineState, Phase, supervise
from gateway.embedded.places import socket_folder
from gateway.engine_notes import EMBEDDER_NOTE, EngineNote, ReplicaNote, read_note, write_note
from gateway.settings import Settings
from gateway.supervise.engine import GIVEN_UP

LEAST_CORES = 4
LEAST_FREE_BYTES = 4 << 30
"""It takes 1 GB; what is left is for whatever else the machine does."""
_UNIX = "unix:"
_SOCKET = "embedder.sock"
_LONGEST_WAIT_SECONDS = 900.0


def can_carry() -> bool:
    """Whether this machine has room for it beside the engine."""
    return (os.cpu_count() or 1) >= LEAST_CORES and _available() >= LEAST_FREE_BYTES


def chosen(settings: Settings) -> Settings:
    """The settings with whether it is served here, and where it is: said once, for the seed and for every child."""
    if settings.embedder_url is not None:
        # Someone else runs it.
        return replace(settings, embedder="none")
    if settings.embedder == "vllm" or (settings.embedder == "auto" and can_carry()):
        return replace(settings, embedder="vllm", embedder_url=own_embedder_url(settings))
    return replace(settings, embedder="none")


def own_embedder_url(settings: Settings) -> str:
    """The private socket of this home's own embedder, in the form of WEIGHBRIDGE_EMBEDDER_URL."""
    folder = socket_folder(settings.home / "run", "embedder", None, longest_name=len(_SOCKET))
    return f"{_UNIX}{folder / _SOCKET}"


def embedder(settings: Settings) -> int:
    """Fetch what is missing, then run it until asked to stop."""
    address = settings.embedder_url or own_embedder_url(settings)
    if not address.startswith(_UNIX):
        print(
            "weighbridge: WEIGHBRIDGE_EMBEDDER_URL says that someone else runs it; unset it to run one here.",
            file=sys.stderr,
        )
        return 1
    return asyncio.run(_supervise(settings, address))


async def _supervise(settings: Settings, address: str) -> int:
    home, began, last = settings.home, time.monotonic(), EngineState(Phase.INSTALLING)

    def report(state: EngineState) -> None:
        nonlocal last
        last = state
        _leave(home, address, state.phase, state.detail, state)
        detail = f": {state.detail}" if state.detail else ""
        print(f"{time.monotonic() - began:.0f} s embedder {state.phase}{detail}", flush=True)

    async def prepare(say: Say) -> EngineSpec:
        if settings.engine == "vllm":
            await _engine_is_up(home / "run", say)
        made = await install(home / "engine-venv", say)
        weights = await model.fetch(home / "embedder", say)
        serving = embedding(await asyncio.to_thread(cards_at_hand))
        say(f"serving {serving.says}")
        return model.spec_of(
            made,
            weights,
            serving,
            socket=Path(address.removeprefix(_UNIX)),
            cache=home / "engine-cache",
            log=home / "logs" / "vllm-embedder.log",
        )

    running = asyncio.ensure_future(supervise(prepare, report))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running
    if last.phase is Phase.FAILED:
        return GIVEN_UP
    _leave(home, address, "stopped", "", last)
    return 0


async def _engine_is_up(run_dir: Path, say: Say) -> None:
    """Wait for the engine beside it; one that never says how it is does not hold this up for ever."""
    deadline = time.monotonic() + _LONGEST_WAIT_SECONDS
    say("waiting until the local engine is up")
    while time.monotonic() < deadline:
        note = read_note(run_dir)
        if note is not None and note.phase in ("ready", "failed"):
            return
        await asyncio.sleep(0.5)


def _leave(home: Path, address: str, phase: str, detail: str, state: EngineState) -> None:
    note = ReplicaNote(
        address=address,
        phase=phase,
        detail=detail,
        pid=state.pid,
        starts=state.starts,
        since=time.time(),
    )
    # A full disk must not end the model: the note only describes.
    with contextlib.suppress(OSError):
        write_note(home / "run", EngineNote.of([note]), EMBEDDER_NOTE)


def _available() -> int:
    """Bytes of memory that could be used now; 0 where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    return 0
