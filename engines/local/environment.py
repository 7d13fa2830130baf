"""Install the engine into a virtual environment of its own, with what is reachable, and say so as it goes.

A stamp with the lock's digest is written last: an environment without a current stamp counts as half-finished and
is built anew, so running again always mends.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import shutil
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from engines.local.installer import HEARTBEAT_SECONDS, Installer, Say, full
from engines.local.sources import (
    CPU,
    SOURCES,
    InstallFailed,
    Source,
    block,
    candidates,
    check_platform,
    has_gpu,
)

STAMP = "weighbridge-engine.json"
# An index that cannot be reached must cost seconds, not pip's default of five tries at 15 s or more.
QUICK = ("--timeout", "10", "--retries", "1")


@dataclass(frozen=True, slots=True)
class Environment:
    """A finished engine environment."""

    python: Path
    source: Source


def find(venv: Path, gpu: bool) -> Environment | None:
    """Return the environment if it is complete and current, without starting anything."""
    try:
        stamp = json.loads((venv / STAMP).read_text())
        source = SOURCES[stamp["source"]]
        current = stamp["lock"] == source.digest() and stamp["python"] == _python_version()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    python = venv / "bin" / "python"
    if not current or source not in candidates(gpu) or not python.exists():
        return None
    return Environment(python, source)


async def install(venv: Path, say: Say) -> Environment:
    """Make the engine's environment at `venv`, or return the one that is there. Raises EngineUnavailable."""
    gpu = await asyncio.to_thread(has_gpu)
    if found := find(venv, gpu):
        return found
    check_platform()
    try:
        venv.parent.mkdir(parents=True, exist_ok=True)
        async with _alone(venv.with_name(venv.name + ".lock"), say) as lock:
            # Another start may have finished it while we waited.
            return find(venv, gpu) or await _build(venv, gpu, say, lock)
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise full(venv, CPU) from problem


async def unpack(folder: Path, lock: Path, say: Say) -> None:
    """Put the files of what a lock lists into a folder of their own, all or none. Raises EngineUnavailable."""
    fresh, scratch = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".tmp")
    folder.parent.mkdir(parents=True, exist_ok=True)
    async with _alone(folder.with_name(folder.name + ".lock"), say) as held:
        for each in (fresh, scratch, folder):
            await asyncio.to_thread(shutil.rmtree, each, True)
        scratch.mkdir()
        try:
            installer = Installer(fresh, scratch, say, held)
            await installer.find_pip()
            outcome = await installer.unpack(lock)
        finally:
            await asyncio.to_thread(shutil.rmtree, scratch, True)
        if outcome.code:
            raise InstallFailed(f"pip could not fetch {folder.name}: {outcome.last_words()}")
        fresh.rename(folder)


async def _build(venv: Path, gpu: bool, say: Say, lock: int) -> Environment:
    began = monotonic()
    if venv.exists():  # noqa: ASYNC240 - one small call, before anything is served
        say("the last set-up did not finish or is out of date: starting it over")
        await asyncio.to_thread(shutil.rmtree, venv)
    # pip unpacks downloads here, not in /tmp, which is often a small file system in memory.
    scratch = venv.with_name(venv.name + ".tmp")
    await asyncio.to_thread(shutil.rmtree, scratch, True)
    scratch.mkdir()
    try:
        installer = Installer(venv, scratch, say, lock)
        source = await _fill(installer, candidates(gpu), say)
    finally:
        await asyncio.to_thread(shutil.rmtree, scratch, True)
    stamp = {"source": source.name, "lock": source.digest(), "python": _python_version()}
    unfinished = venv / (STAMP + ".new")
    unfinished.write_text(json.dumps(stamp))
    unfinished.replace(venv / STAMP)
    say(f"installed in {monotonic() - began:.0f} s")
    return Environment(venv / "bin" / "python", source)


async def _fill(installer: Installer, sources: Sequence[Source], say: Say) -> Source:
    await installer.make()
    for source in sources:
        last = source is sources[-1]
        installer.check_room(source)
        if source is CPU and not last and not await _torch_is_at_hand(installer, source, say):
            continue
        say(f"taking {source.says}")
        outcome = await installer.pip(source, source.lock)
        if outcome.code == 0:
            return source
        if outcome.disk_full:
            raise full(installer.venv, source)
        raise InstallFailed(f"pip could not install the engine's packages: {outcome.last_words()}")
    raise InstallFailed("No source for the engine's packages was left to try.")


async def _torch_is_at_hand(installer: Installer, source: Source, say: Say) -> bool:
    """Install the CPU build of torch alone: from what pip is set up with, else from an index the operator named."""
    wanted = installer.scratch / "torch.txt"
    wanted.write_text(block(source.lock.read_text(), "torch"))
    tries: list[tuple[str, tuple[str, ...]]] = [("what pip is set up with", ())]
    if index := os.environ.get("WEIGHBRIDGE_TORCH_INDEX"):
        tries.append(("WEIGHBRIDGE_TORCH_INDEX", ("--index-url", index, *QUICK)))
    for where, options in tries:
        say(f"looking for the CPU build of torch in {where}")
        outcome = await installer.pip(source, wanted, *options)
        if outcome.code == 0:
            return True
        if outcome.disk_full:
            raise full(installer.venv, source)
    say("no CPU build of torch for this Python there")
    return False


@asynccontextmanager
async def _alone(path: Path, say: Say) -> AsyncGenerator[int]:
    """Hold the set-up's lock: two starts at once must not fill one environment."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        waited = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited:
                    say("another set-up of the engine is at work: waiting for it")
                waited = True
                await asyncio.sleep(HEARTBEAT_SECONDS)
                say("still waiting for the other set-up")
        yield handle
    finally:
        os.close(handle)


def _python_version() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


async def _main(venv: Path) -> None:
    made = await install(venv, lambda line: print(f"engine: {line}", flush=True))
    print(made.python)


if __name__ == "__main__":
    # By hand: `python -m engines.local.environment PATH`.
    asyncio.run(_main(Path(sys.argv[1]).resolve()))
