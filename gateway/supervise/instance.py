"""One running instance a home: its lock, and the file that tells other commands about it.

The lock decides whether an instance runs; the file only describes it, and may be stale after a crash.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from gateway.embedded.lock import HomeLock
from gateway.embedded.process import alive


@dataclass(frozen=True, slots=True)
class ProcessNote:
    """One process of the tree; its start time tells it from a newcomer with the same number."""

    pid: int
    started_ticks: int
    restarts: int = 0

    @classmethod
    def of(cls, pid: int, restarts: int = 0) -> Self:
        """A note on a process that runs now."""
        return cls(pid, _start_ticks(pid), restarts)

    @property
    def runs(self) -> bool:
        """True while that very process exists."""
        return alive(self.pid) and _start_ticks(self.pid) == self.started_ticks


@dataclass(slots=True)
class State:
    """What the state file says."""

    supervisor: ProcessNote
    address: str
    mode: str
    phase: str = "starting"
    engine_url: str = ""
    """Addresses of the local engine's replicas, with commas between; empty where there is none."""
    children: dict[str, ProcessNote] = field(default_factory=dict[str, ProcessNote])

    def save(self, home: Path) -> None:
        """Replace the file whole: a reader never sees half of it."""
        path = state_file(home)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(self), indent=1) + "\n")
        fresh.replace(path)

    @classmethod
    def load(cls, home: Path) -> Self | None:
        """The last state that was saved; None where there is none that can be read."""
        try:
            raw: dict[str, Any] = json.loads(state_file(home).read_text())
            return cls(
                supervisor=ProcessNote(**raw["supervisor"]),
                address=raw["address"],
                mode=raw["mode"],
                phase=raw["phase"],
                engine_url=raw.get("engine_url", ""),
                children={name: ProcessNote(**note) for name, note in raw["children"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None


def state_file(home: Path) -> Path:
    """Where the state is kept."""
    return home / "run" / "state.json"


def instance_lock(home: Path) -> HomeLock:
    """The lock that a running instance holds."""
    (home / "run").mkdir(parents=True, exist_ok=True)
    return HomeLock(home / "run" / "lock")


def is_running(home: Path) -> bool:
    """True while an instance holds the lock."""
    if not (home / "run" / "lock").exists() or not os.access(home / "run" / "lock", os.W_OK):
        return False
    lock = instance_lock(home)
    if lock.take():
        lock.release()
        return False
    return True


def _start_ticks(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0
