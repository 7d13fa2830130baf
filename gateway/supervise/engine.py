"""`weighbridge engine`: the local vLLM under supervision, as a child of `up` or beside `serve`.

It ends with status 78 when no restart would help (no such platform, no room, five failed starts): whoever keeps
it running can tell that from a crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from pathlib import Path

from engines.http1.transport import Http1Transport
from engines.local.adapter_keeper import AdapterKeeper, Standing
from engines.local.adapters import scan
from engines.local.environment import Say, install
from engines.local.launch import SHIPPED_ADAPTERS, EngineSpec
from engines.local.supervise import EngineState, Phase, supervise
from gateway.adapter_notes import FOLDER, write_standings
from gateway.embedded.places import socket_folder
from gateway.engine_watch import EngineNote, write_note
from gateway.settings import Settings

GIVEN_UP = 78
_SOCKET_NAME = "engine.sock"


def own_engine_url(settings: Settings) -> str:
    """The private socket of this home's own engine, in the form of WEIGHBRIDGE_ENGINE_URL."""
    folder = socket_folder(settings.home / "run", "engine", None, longest_name=len(_SOCKET_NAME))
    return f"unix:{folder / _SOCKET_NAME}"


def engine(settings: Settings) -> int:
    """Install the engine where it is missing, then run it until asked to stop."""
    url = settings.engine_url or own_engine_url(settings)
    if settings.engine == "none" or not url.startswith("unix:"):
        print(
            "weighbridge: WEIGHBRIDGE_ENGINE or WEIGHBRIDGE_ENGINE_URL says that someone else runs the engine; "
            "unset it to run one here.",
            file=sys.stderr,
        )
        return 1
    return asyncio.run(_supervise(settings.home, Path(url.removeprefix("unix:"))))


async def _supervise(home: Path, socket: Path) -> int:
    began = time.monotonic()
    last = EngineState(Phase.INSTALLING)

    async def prepare(say: Say) -> EngineSpec:
        made = await install(home / "engine-venv", say)
        return EngineSpec(
            python=made.python,
            socket=socket,
            cache=home / "engine-cache",
            log=home / "logs" / "vllm.log",
        )

    adapters = _Adapters(home, f"unix:{socket}")

    def report(state: EngineState) -> None:
        nonlocal last
        last = state
        adapters.follow(state)
        write_note(home / "run", EngineNote(state.phase.value, state.detail))
        detail = f": {state.detail}" if state.detail else ""
        print(f"{time.monotonic() - began:.0f} s {state.phase}{detail}", flush=True)

    write_note(home / "run", EngineNote(last.phase.value))
    running = asyncio.ensure_future(supervise(prepare, report))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running
    adapters.stop()
    return GIVEN_UP if last.phase is Phase.FAILED else 0


class _Adapters:
    """Keeps the engine's adapters while it is ready; says that they are on their way while it is not."""

    def __init__(self, home: Path, url: str) -> None:
        # A mounted or uploaded adapter goes before the one that ships under the same name.
        self._folders = (SHIPPED_ADAPTERS, home / FOLDER)
        self._run_dir = home / "run"
        self._url = url
        self._keeping: asyncio.Task[None] | None = None

    def follow(self, state: EngineState) -> None:
        self.stop()
        if state.phase is Phase.READY:
            self._keeping = asyncio.create_task(self._keep(), name="adapters")

    def stop(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            self._keeping = None
        found, wrong = scan(self._folders)
        waiting = {
            name: Standing(loaded=False, rank=each.rank, size=each.size) for name, each in found.items()
        }
        failed = {name: Standing(loaded=False, reason=why) for name, why in wrong.items()}
        write_standings(self._run_dir, waiting | failed)

    async def _keep(self) -> None:
        transport = Http1Transport(self._url)
        try:
            await AdapterKeeper(
                transport, self._folders, lambda standings: write_standings(self._run_dir, standings)
            ).keep()
        finally:
            await transport.aclose()
