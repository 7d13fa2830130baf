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
import re
import shutil
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from engines.local.sources import (
    CPU,
    SOURCES,
    DiskFull,
    InstallFailed,
    Source,
    block,
    candidates,
    check_platform,
    has_gpu,
    pins,
)

Say = Callable[[str], None]

STAMP = "weighbridge-engine.json"
HEARTBEAT_SECONDS = 4.0
# An index that cannot be reached must cost seconds, not pip's default of five tries at 15 s or more.
QUICK = ("--timeout", "10", "--retries", "1")
_FULL = re.compile(r"No space left on device|Errno 28|Disk quota exceeded")


@dataclass(frozen=True, slots=True)
class Environment:
    """A finished engine environment."""

    python: Path
    source: Source


@dataclass(frozen=True, slots=True)
class _Outcome:
    code: int
    tail: tuple[str, ...]

    @property
    def disk_full(self) -> bool:
        return any(_FULL.search(line) for line in self.tail)

    def last_words(self) -> str:
        told = [line for line in self.tail if line.startswith("ERROR")] or list(self.tail) or ["no output"]
        return told[-1][:300]


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
        raise _full(venv, CPU) from problem


async def unpack(folder: Path, lock: Path, say: Say) -> None:
    """Put the files of what a lock lists into a folder of their own, all or none. Raises EngineUnavailable."""
    fresh, scratch = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".tmp")
    folder.parent.mkdir(parents=True, exist_ok=True)
    async with _alone(folder.with_name(folder.name + ".lock"), say) as held:
        for each in (fresh, scratch, folder):
            await asyncio.to_thread(shutil.rmtree, each, True)
        scratch.mkdir()
        try:
            installer = _Installer(fresh, scratch, say, held)
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
        installer = _Installer(venv, scratch, say, lock)
        source = await _fill(installer, candidates(gpu), say)
    finally:
        await asyncio.to_thread(shutil.rmtree, scratch, True)
    stamp = {"source": source.name, "lock": source.digest(), "python": _python_version()}
    unfinished = venv / (STAMP + ".new")
    unfinished.write_text(json.dumps(stamp))
    unfinished.replace(venv / STAMP)
    say(f"installed in {monotonic() - began:.0f} s")
    return Environment(venv / "bin" / "python", source)


async def _fill(installer: _Installer, sources: Sequence[Source], say: Say) -> Source:
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
            raise _full(installer.venv, source)
        raise InstallFailed(f"pip could not install the engine's packages: {outcome.last_words()}")
    raise InstallFailed("No source for the engine's packages was left to try.")


async def _torch_is_at_hand(installer: _Installer, source: Source, say: Say) -> bool:
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
            raise _full(installer.venv, source)
    say("no CPU build of torch for this Python there")
    return False


class _Installer:
    """Run pip against one environment and tell, at least every few seconds, how far it is."""

    def __init__(self, venv: Path, scratch: Path, say: Say, lock: int) -> None:
        self.venv = venv
        self.scratch = scratch
        self._say = say
        self._lock = lock
        self._pip: tuple[str, ...] = ()
        self._bar = "off"

    async def make(self) -> None:
        """Create the empty environment and find a pip to fill it with."""
        # Without pip: Debian's python3 lacks ensurepip unless python3-venv is installed.
        made = await self._run(
            (sys.executable, "-m", "venv", "--without-pip", str(self.venv)), lambda _: None
        )
        if made.disk_full:
            raise _full(self.venv, CPU)
        if made.code:
            raise InstallFailed(f"Python could not make a virtual environment: {made.last_words()}")
        await self.find_pip()

    async def find_pip(self) -> None:
        """Find a pip that is new enough; raises InstallFailed."""
        base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
        tries = [(sys.executable, "-m", "pip"), (str(base), "-m", "pip")]
        tries += [(found,) for name in ("pip3", "pip") if (found := shutil.which(name))]
        for command in tries:
            if not Path(command[0]).exists():  # noqa: ASYNC240 - the same
                continue
            told = await self._run((*command, "--version"), lambda _: None)
            version = re.search(r"pip (\d+)\.(\d+)", "\n".join(told.tail))
            if told.code == 0 and version and (int(version[1]), int(version[2])) >= (22, 3):
                self._pip = command
                # "raw" prints bytes done and to do; older pips would only draw a bar for a terminal.
                self._bar = "raw" if (int(version[1]), int(version[2])) >= (24, 1) else "off"
                return
        raise InstallFailed("The set-up needs pip 22.3 or later: install python3-pip, or upgrade pip.")

    def check_room(self, source: Source) -> None:
        """Refuse to begin what cannot fit."""
        if self._free() < source.installed_bytes + source.download_bytes:
            raise _full(self.venv, source)

    async def pip(self, source: Source, requirements: Path, *options: str) -> _Outcome:
        """Install what a lock file lists, hashes checked, nothing resolved and nothing compiled."""
        cached = self._free() > source.installed_bytes + 2 * source.download_bytes
        return await self._install(
            ("--python", str(self.venv / "bin" / "python")), requirements, options, cached=cached
        )

    async def unpack(self, requirements: Path) -> _Outcome:
        """The same into a bare folder, which no Python imports from."""
        return await self._install((), requirements, ("--target", str(self.venv)), cached=True)

    async def _install(
        self, of: Sequence[str], requirements: Path, options: Sequence[str], *, cached: bool
    ) -> _Outcome:
        arguments = (
            *self._pip,
            *of,
            *("install", "--no-deps", "--require-hashes", "--only-binary", ":all:"),
            # Compiling all the modules takes as long as the rest; the first start compiles those it imports.
            *("--no-compile", "--no-input", "--disable-pip-version-check", "--progress-bar", self._bar),
            *(() if cached else ("--no-cache-dir",)),
            *options,
            *("-r", str(requirements)),
        )
        total = len(pins(requirements.read_text()))  # noqa: ASYNC240 - the same
        return await self._run(arguments, _Teller(self._say, self.venv, total))

    def _free(self) -> int:
        return shutil.disk_usage(self.venv.parent).free

    async def _run(self, command: Sequence[str], hear: Callable[[str | None], None]) -> _Outcome:
        """Run one command in a group of its own; `hear` gets each line, and None every silent second."""
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(self.scratch), "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
            # An installer that outlives a killed set-up keeps the lock, so the next one waits for it.
            pass_fds=(self._lock,),
        )
        assert child.stdout is not None
        tail: list[str] = []
        try:
            reading = asyncio.ensure_future(child.stdout.readline())
            while True:
                done, _ = await asyncio.wait((reading,), timeout=1.0)
                if not done:
                    hear(None)
                    continue
                line = reading.result().decode(errors="replace").strip()
                if not line and child.stdout.at_eof():
                    break
                hear(line)
                if not line.startswith("Progress "):
                    tail = [*tail[-30:], line]
                reading = asyncio.ensure_future(child.stdout.readline())
            return _Outcome(await child.wait(), tuple(tail))
        finally:
            if child.returncode is None:
                os.killpg(child.pid, signal.SIGKILL)
                await child.wait()


class _Teller:
    """Turn pip's output into a few readable lines: one a heartbeat, whether there is news or not."""

    def __init__(self, say: Say, venv: Path, total: int) -> None:
        self._say = say
        self._site = venv / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
        self._total = total
        self._began = monotonic()
        self._last = self._began
        self._doing = "asking for packages"
        self._seen = 0
        self._installing = False

    def __call__(self, line: str | None) -> None:
        if line is not None:
            self._note(line)
        if monotonic() - self._last < HEARTBEAT_SECONDS:
            return
        self._last = monotonic()
        self._say(f"{self._state()} ({self._last - self._began:.0f} s)")

    def _note(self, line: str) -> None:
        if line.startswith("Collecting "):
            self._seen += 1
            self._doing = f"downloading {line.split()[1].split('==')[0]}"
        elif match := re.match(r"Progress (\d+) of (\d+)", line):
            done, todo = int(match[1]) >> 20, int(match[2]) >> 20
            name = self._doing.removeprefix("downloading ").split(",")[0]
            self._doing = f"downloading {name}, {done:,} of {todo:,} MB"
        elif line.startswith("Installing collected packages"):
            self._installing = True

    def _state(self) -> str:
        if self._installing:
            done = sum(1 for _ in self._site.glob("*.dist-info"))
            return f"installing, {min(done, self._total)} of {self._total} packages"
        return f"{self._doing}, package {min(self._seen, self._total)} of {self._total}"


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


def _full(venv: Path, source: Source) -> DiskFull:
    need = (source.installed_bytes + source.download_bytes) / (1 << 30)
    free = shutil.disk_usage(venv.parent).free / (1 << 30)
    return DiskFull(
        f"The disk that holds {venv.parent} is too full for the engine: it needs {need:.1f} GB, {free:.1f} GB are free. "
        "Make room, or set WEIGHBRIDGE_HOME to a folder on another disk, and run again."
    )


def _python_version() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


async def _main(venv: Path) -> None:
    made = await install(venv, lambda line: print(f"engine: {line}", flush=True))
    print(made.python)


if __name__ == "__main__":
    # By hand: `python -m engines.local.environment PATH`.
    asyncio.run(_main(Path(sys.argv[1]).resolve()))
