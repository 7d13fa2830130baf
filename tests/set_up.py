"""Make the environments of tests that take long to make: the engine's, and those of clients that run apart.

`make test` does so before the tests begin, so that no test waits for one. What cannot be made is said and left to the
tests that want it: they tell the reason again. A finished environment costs milliseconds.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from engines.local.environment import install
from engines.local.sources import EngineUnavailable
from tests.clients.apart import CannotBeMade, frameworks, javascript


async def engine() -> None:
    """What the fixture `engine` starts from."""
    root = Path(os.environ.get("WEIGHBRIDGE_HOME", "var")).resolve()
    try:
        await install(root / "engine-venv", lambda line: print(f"engine: {line}", flush=True))
    except EngineUnavailable as why:
        print(f"engine: {why}", flush=True)


async def client(make: Callable[[], Path]) -> None:
    """One environment of clients."""
    try:
        await asyncio.to_thread(make)
    except CannotBeMade as why:
        print(f"clients, {make.__name__}: {why}", flush=True)


async def main(began: float) -> None:
    """All of them side by side, then how long the whole set-up took since `began`."""
    await asyncio.gather(engine(), client(frameworks), client(javascript))
    print(f"set-up: {time.time() - began:.0f} s; from here on it is tests", flush=True)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1])))
