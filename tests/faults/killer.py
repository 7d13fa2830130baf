"""Kills processes: kill -9 at seeded random times, at a named point of the line, and stops that end by themselves.

A point is armed through the environment of the process that is to die at it; the process itself only says where
it is (`crashpoints.reach`). An armed process that never reaches its point is a test that proves nothing: see `died`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ENVIRONMENT: Final = "WEIGHBRIDGE_CRASH_AT"

BEFORE_INTENT: Final = "before_intent"
AFTER_INTENT: Final = "after_intent"
BEFORE_FIRST_BYTE: Final = "before_first_byte"
MID_STREAM: Final = "mid_stream"
AFTER_LAST_BYTE: Final = "after_last_byte"
AFTER_SETTLE: Final = "after_settle"
DRAIN_BEFORE_COMMIT: Final = "drain_before_commit"
DRAIN_AFTER_COMMIT: Final = "drain_after_commit"

WORKER_POINTS: Final = (
    BEFORE_INTENT,
    AFTER_INTENT,
    BEFORE_FIRST_BYTE,
    MID_STREAM,
    AFTER_LAST_BYTE,
    AFTER_SETTLE,
)
DRAINER_POINTS: Final = (DRAIN_BEFORE_COMMIT, DRAIN_AFTER_COMMIT)
POINTS: Final = WORKER_POINTS + DRAINER_POINTS


def armed(point: str, nth: int = 1) -> dict[str, str]:
    """The environment that kills a process when it reaches `point` for the nth time."""
    if point not in POINTS:
        raise ValueError(f"no crash point {point!r}; known: {', '.join(POINTS)}")
    if nth < 1:
        raise ValueError(f"nth counts from 1, not {nth}")
    return {ENVIRONMENT: point if nth == 1 else f"{point}:{nth}"}


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill: whom, and when (monotonic seconds)."""

    pid: int
    at: float


class Killer:
    """Kills members of a changing set. One seed gives one sequence of waits and choices."""

    def __init__(self, pids: Callable[[], Iterable[int]], *, seed: int) -> None:
        self._pids = pids
        self.seed = seed
        self._random = random.Random(seed)
        self.kills: list[Kill] = []

    def kill_one(self) -> int | None:
        """kill -9 one of the present pids, or None where there is none."""
        present = sorted(self._pids())
        if not present:
            return None
        pid = self._random.choice(present)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.kills.append(Kill(pid, time.monotonic()))
            return pid
        return None

    async def run(
        self,
        count: int,
        *,
        every: tuple[float, float],
        after: Callable[[int], Awaitable[None]] | None = None,
    ) -> list[Kill]:
        """Kill `count` times, after a random wait within `every` each; `after` may wait for a successor."""
        first = len(self.kills)
        while len(self.kills) - first < count:
            await asyncio.sleep(self._random.uniform(*every))
            pid = self.kill_one()
            if pid is not None:
                await died(pid)
                if after is not None:
                    await after(pid)
        return self.kills[first:]


async def died(pid: int, timeout: float = 10.0) -> None:
    """Wait until a process has ended; a zombie that nobody has reaped has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(handle, gone.set)
        async with asyncio.timeout(timeout):
            await gone.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


def state(pid: int) -> str:
    """The kernel's letter for a process: R, S, D, T (stopped), Z."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@contextlib.asynccontextmanager
async def stopped(pid: int) -> AsyncGenerator[None]:
    """SIGSTOP for the length of the block, which begins once the process stands; SIGCONT however it ends."""
    os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(5):
            while state(pid) != "T":
                await asyncio.sleep(0.001)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


async def stop_for(pid: int, seconds: float) -> None:
    """Freeze a process for a while: it holds its sockets and answers nothing."""
    async with stopped(pid):
        await asyncio.sleep(seconds)
