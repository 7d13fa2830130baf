"""What the supervisor of the local engine says of it, as a note for workers and commands of the same home.

Written whole or not at all. Each replica has its own line; the engine's own phase is that of the replica that is
farthest, since one that is ready is enough to serve.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

NOTE = "engine.json"
EMBEDDER_NOTE = "embedder.json"
_FARTHEST = ("ready", "draining", "starting", "installing", "stopped", "failed")


class ReplicaNote(msgspec.Struct, frozen=True, kw_only=True):
    """One engine process: where it is, how it stands and what it was started with."""

    address: str
    phase: str = "installing"
    detail: str = ""
    pid: int | None = None
    starts: int = 0
    since: float = 0.0
    """When the phase began, seconds of the epoch."""
    version: str = ""
    """What the engine says it is, once it has been ready."""
    command: tuple[str, ...] = ()


class EngineNote(msgspec.Struct, frozen=True):
    """The engine as a whole: `installing`, `starting`, `ready`, `draining`, `stopped` or `failed`, and why."""

    phase: str
    detail: str = ""
    replicas: tuple[ReplicaNote, ...] = ()

    @classmethod
    def of(cls, replicas: Sequence[ReplicaNote]) -> EngineNote:
        """The note on at least one replica."""
        farthest = min(replicas, key=lambda each: _FARTHEST.index(each.phase))
        return cls(farthest.phase, farthest.detail, tuple(replicas))

    def draining(self) -> frozenset[str]:
        """Addresses that should get no new call."""
        return frozenset(each.address for each in self.replicas if each.phase == "draining")


def write_note(run_dir: Path, note: EngineNote, name: str = NOTE) -> None:
    """Leave the note for the workers, whole or not at all."""
    run_dir.mkdir(parents=True, exist_ok=True)
    fresh = run_dir / f"{name}.new"
    fresh.write_bytes(msgspec.json.encode(note))
    fresh.replace(run_dir / name)


def read_note(run_dir: Path, name: str = NOTE) -> EngineNote | None:
    """The note as it was last left; None where there is none that can be read."""
    try:
        return msgspec.json.decode((run_dir / name).read_bytes(), type=EngineNote)
    except (OSError, msgspec.MsgspecError):
        return None
