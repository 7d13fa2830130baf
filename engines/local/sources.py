"""Decide where the engine's packages come from, and what each choice costs.

Each source has its own lock file with versions and hashes, so whatever is reachable, what gets installed is known.
"""

from __future__ import annotations

import hashlib
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from engines.local.cards import cards_at_hand

LOCKS = Path(__file__).resolve().parents[2] / "locks"
GIB = 1 << 30


class EngineUnavailable(Exception):
    """The engine cannot be set up or started here; the message is one sentence that says why and what to do."""


class UnsupportedPlatform(EngineUnavailable):
    """No wheel of the engine exists for this machine or this Python."""


class DiskFull(EngineUnavailable):
    """There is not enough room for the engine's packages."""


class InstallFailed(EngineUnavailable):
    """The package installer gave up; running again starts over from a clean state."""


@dataclass(frozen=True, slots=True)
class Source:
    """One way to get the engine."""

    name: str
    device: str
    lock: Path
    says: str
    installed_bytes: int
    download_bytes: int

    def digest(self) -> str:
        """Identify the lock's content, so that a changed lock means a new install."""
        return hashlib.sha256(self.lock.read_bytes()).hexdigest()


CPU = Source(
    name="cpu",
    device="cpu",
    lock=LOCKS / "engine-cpu.txt",
    says="the CPU build of torch, 3 GB installed",
    installed_bytes=int(3.3 * GIB),
    download_bytes=int(0.8 * GIB),
)
CPU_INDEX = Source(
    name="cpu-index",
    device="cpu",
    lock=LOCKS / "engine-cpu-index.txt",
    says="torch from the package index: the CUDA build, which serves on the CPU as well, 6 GB installed",
    installed_bytes=int(6.0 * GIB),
    download_bytes=int(2.8 * GIB),
)
GPU = Source(
    name="gpu",
    device="gpu",
    lock=LOCKS / "engine-gpu.txt",
    says="vLLM for NVIDIA GPUs, 10 GB installed",
    installed_bytes=int(10.0 * GIB),
    download_bytes=int(4.5 * GIB),
)
SOURCES = {source.name: source for source in (CPU, CPU_INDEX, GPU)}


def has_gpu() -> bool:
    """Tell whether an engine that is started from here would see an NVIDIA GPU."""
    return bool(cards_at_hand())


def candidates(gpu: bool) -> tuple[Source, ...]:
    """Order the sources to try: the cheapest that fits the machine comes first."""
    return (GPU,) if gpu else (CPU, CPU_INDEX)


def check_platform(
    system: str = sys.platform,
    machine: str | None = None,
    version: tuple[int, int] = sys.version_info[:2],
    libc: tuple[str, str] | None = None,
) -> None:
    """Refuse, before anything is downloaded, a machine for which the engine has no wheel."""
    machine = machine or platform.machine()
    name, release = libc or platform.libc_ver()
    otherwise = (
        "Set WEIGHBRIDGE_ENGINE_URL to an engine elsewhere, or WEIGHBRIDGE_ENGINE=none to run without one."
    )
    if system != "linux" or machine not in ("x86_64", "aarch64"):
        raise UnsupportedPlatform(
            f"The local engine needs Linux on x86_64 or aarch64; this is {system} on {machine}. {otherwise}"
        )
    if not (3, 11) <= version < (3, 15):
        raise UnsupportedPlatform(
            f"The local engine needs Python 3.11 to 3.14; this is {version[0]}.{version[1]}. {otherwise}"
        )
    numbers = tuple(int(part) for part in re.findall(r"\d+", release)[:2])
    if name != "glibc" or numbers < (2, 31):
        raise UnsupportedPlatform(
            f"The local engine needs glibc 2.31 or later; this is {name or 'another libc'} {release}. {otherwise}"
        )


_PINNED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)")


def pins(lock_text: str) -> dict[str, str]:
    """Read the names and versions of a lock file, without its markers and hashes."""
    found = (_PINNED.match(line) for line in lock_text.splitlines())
    return {match["name"]: match["version"] for match in found if match}


def block(lock_text: str, name: str) -> str:
    """Cut one package, with its hashes, out of a lock file."""
    taken: list[str] = []
    for line in lock_text.splitlines():
        match = _PINNED.match(line)
        if match:
            if taken:
                break
            if match["name"] != name:
                continue
            taken.append(line)
        elif taken:
            taken.append(line)
    if not taken:
        raise LookupError(f"{name} is not in the lock")
    return "\n".join(taken) + "\n"
