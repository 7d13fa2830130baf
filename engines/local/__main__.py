"""Run the local engine by hand: `python -m engines.local HOME` installs it under HOME, starts it and says where."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

from engines.local.environment import Say, install
from engines.local.launch import EngineSpec
from engines.local.supervise import EngineState, Phase, supervise


async def main(home: Path) -> int:
    """Supervise one engine until interrupted."""
    last = EngineState(Phase.INSTALLING)

    async def prepare(say: Say) -> EngineSpec:
        made = await install(home / "engine-venv", say)
        return EngineSpec(
            python=made.python,
            socket=home / "engine.sock",
            cache=home / "engine-cache",
            log=home / "logs" / "engine.log",
        )

    def report(state: EngineState) -> None:
        nonlocal last
        last = state
        sys.stdout.write(f"engine {state.phase}{': ' + state.detail if state.detail else ''}\n")
        sys.stdout.flush()

    running = asyncio.ensure_future(supervise(prepare, report))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running
    return 1 if last.phase is Phase.FAILED else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(Path(sys.argv[1]).resolve())))
