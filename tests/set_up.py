"""Make what tests run in, side by side: the project's environment, the engine's, and those of clients that run apart.

`make test` does so before the tests begin, with the machine's own Python, so that no test waits for one. Without the
project's environment nothing goes on; another that cannot be made is said and left to the tests that want it, which
tell the reason again. A finished environment costs milliseconds.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from scripts.bootstrap import better_python

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
BOOTSTRAP = (str(ROOT / "scripts" / "bootstrap.py"), "--dev", *(["--as-is"] if "--as-is" in sys.argv else []))


async def project() -> int:
    """The environment of the project; the exit status of its set-up, which says what went wrong."""
    new = not (VENV / ".weighbridge-dev").exists()
    making = await asyncio.create_subprocess_exec(sys.executable, *BOOTSTRAP)
    status = await making.wait()
    if new and not status:
        await compiled()
    return status


async def compiled() -> None:
    """Compile what tests import once, where each of their processes would do so at the same time."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": ""}
    collecting = await asyncio.create_subprocess_exec(
        str(VENV / "bin" / "python"), "-m", "pytest", "--collect-only", "-qq",
        cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    await collecting.wait()


async def imported(python: Path) -> None:
    """Compile what the engine imports while a core has nothing to do: its first start would, in the middle of tests."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    importing = await asyncio.create_subprocess_exec(
        str(python), "-P", "-c", "import vllm.entrypoints.openai.api_server",
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    await importing.wait()


async def engine() -> None:
    """What the fixture `engine` starts from."""
    from engines.local.environment import install
    from engines.local.sources import EngineUnavailable

    venv = Path(os.environ.get("WEIGHBRIDGE_HOME", "var")).resolve() / "engine-venv"
    new = not venv.exists()
    try:
        made = await install(venv, lambda line: print(f"engine: {line}", flush=True))
    except EngineUnavailable as why:
        print(f"engine: {why}", flush=True)
        return
    if new:
        await imported(made.python)


async def clients() -> None:
    """The environments of clients."""
    from tests.clients.environments import CannotBeMade, frameworks, javascript

    async def one(make: Callable[[], Path]) -> None:
        try:
            await asyncio.to_thread(make)
        except CannotBeMade as why:
            print(f"clients, {make.__name__}: {why}", flush=True)

    await asyncio.gather(one(frameworks), one(javascript))


async def main(began: float) -> int:
    """All of them, then how long the whole set-up took since `began`; the status to end with."""
    status, *_ = await asyncio.gather(project(), engine(), clients())
    if not status:
        print(f"set-up: {time.time() - began:.0f} s; from here on it is tests", flush=True)
    return status


if __name__ == "__main__":
    # All of these environments are of the Python that scripts/bootstrap.py chooses.
    better = None if "--as-is" in sys.argv else better_python()
    if better:
        os.execv(better, [better, "-m", "tests.set_up", *sys.argv[1:]])
    if sys.version_info < (3, 11) or importlib.util.find_spec("pip") is None:
        # Too old, or without a pip for the others: the project's environment comes first, and its Python makes them.
        subprocess.run([sys.executable, *BOOTSTRAP], check=True)
        python = str(VENV / "bin" / "python")
        if sys.executable != python:
            os.execv(python, [python, "-m", "tests.set_up", *sys.argv[1:]])
    sys.exit(asyncio.run(main(float(sys.argv[1]))))
