"""Processor time, memory and pinning of processes.

Times come from each process's own CPU clock in nanoseconds: /proc's ticks of 10 ms are too coarse for short cells.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path


@contextlib.contextmanager
def pinned(*cores: int) -> Generator[None]:
    """Whatever is started inside runs on these cores alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def two_cores() -> tuple[int, int]:
    """(core of load, upstream and stores; core of what is measured): the same one where there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[min(1, len(cores) - 1)]


def go_first() -> bool:
    """Ask for niceness -10 for this process and all that it starts; False where that is not allowed."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    except PermissionError:
        return False
    return hurry(os.getpid())


def hurry(pid: int) -> bool:
    """Let a session go first: where the kernel groups processes by session, their own niceness counts only inside it."""
    try:
        Path(f"/proc/{pid}/autogroup").write_text("-10")
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def family(pid: int) -> list[int]:
    """A process and all its descendants that live now."""
    parents: dict[int, list[int]] = {}
    for each in Path("/proc").iterdir():
        if each.name.isdecimal():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parent = int((each / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(each.name))
    found = [pid]
    for each in found:
        found += parents.get(each, [])
    return found


def cpu_ns(pid: int) -> int:
    """User and system time that a process has used, its threads included; 0 when it is gone."""
    try:
        # The clock id of another process's CPU clock, as clock_getcpuclockid(3) computes it.
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return 0


def rss_mb(pid: int) -> float:
    """Resident memory in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def own_mb(pid: int) -> float:
    """Resident memory in MB that no other process shares."""
    kib = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            kib += int(line.split()[1])
    return kib * 1024 / 1e6


class Meter:
    """Processor time of named groups of processes between `start` and `stop`."""

    def __init__(self, groups: Mapping[str, Iterable[int]]) -> None:
        self._groups = {name: tuple(pids) for name, pids in groups.items()}
        self._before: dict[str, dict[int, int]] = {}

    def start(self) -> None:
        """Begin to count."""
        self._before = self._read()

    def stop(self) -> dict[str, float]:
        """Milliseconds used by each group since `start`, processes that began meanwhile included."""
        after = self._read()
        return {
            name: sum(now - self._before[name].get(pid, 0) for pid, now in clocks.items() if now) / 1e6
            for name, clocks in after.items()
        }

    def _read(self) -> dict[str, dict[int, int]]:
        return {
            name: {pid: cpu_ns(pid) for root in roots for pid in family(root)}
            for name, roots in self._groups.items()
        }
