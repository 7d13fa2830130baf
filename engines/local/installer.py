"""Run pip against one environment, or one folder, and tell at least every few seconds how far it is.

Nothing is resolved and nothing compiled: what a lock lists is fetched with its hashes checked. What cannot fit on the
disk is not begun.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from engines.local.sources import CPU, DiskFull, InstallFailed, Source, pins

Say = Callable[[str], None]

HEARTBEAT_SECONDS = 4.0
_FULL = re.compile(r"No space left on device|Errno 28|Disk quota exceeded")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run of pip ended."""

    code: int
    tail: tuple[str, ...]

    @property
    def disk_full(self) -> bool:
        """Whether the disk is why."""
        return any(_FULL.search(line) for line in self.tail)

    def last_words(self) -> str:
        """What it said of its failure."""
        told = [line for line in self.tail if line.startswith("ERROR")] or list(self.tail) or ["no output"]
        return told[-1][:300]


class Installer:
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
            raise full(self.venv, CPU)
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
            raise full(self.venv, source)

    async def pip(self, source: Source, requirements: Path, *options: str) -> Outcome:
        """Install what a lock file lists, hashes checked, nothing resolved and nothing compiled."""
        cached = self._free() > source.installed_bytes + 2 * source.download_bytes
        return await self._install(
            ("--python", str(self.venv / "bin" / "python")), requirements, options, cached=cached
        )

    async def unpack(self, requirements: Path) -> Outcome:
        """The same into a bare folder, which no Python imports from."""
        return await self._install((), requirements, ("--target", str(self.venv)), cached=True)

    async def _install(
        self, of: Sequence[str], requirements: Path, options: Sequence[str], *, cached: bool
    ) -> Outcome:
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

    async def _run(self, command: Sequence[str], hear: Callable[[str | None], None]) -> Outcome:
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
            return Outcome(await child.wait(), tuple(tail))
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


def full(venv: Path, source: Source) -> DiskFull:
    """What is said where an environment does not fit on its disk."""
    need = (source.installed_bytes + source.download_bytes) / (1 << 30)
    free = shutil.disk_usage(venv.parent).free / (1 << 30)
    return DiskFull(
        f"The disk that holds {venv.parent} is too full for the engine: it needs {need:.1f} GB, {free:.1f} GB are free. "
        "Make room, or set WEIGHBRIDGE_HOME to a folder on another disk, and run again."
    )
