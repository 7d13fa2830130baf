"""What `weighbridge doctor` looks at: each thing that a start needs, one finding each, nothing changed."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engines.local import environment
from engines.local.sources import EngineUnavailable, check_platform, has_gpu
from gateway.embedded.account import own_name
from gateway.embedded.errors import EmbeddedError
from gateway.embedded.programs import postgres_programs, redis_program, redis_version
from gateway.settings import Settings
from gateway.supervise import preflight
from gateway.supervise.instance import State, is_running
from gateway.supervise.preflight import CannotRun

_ENGINE_MEMORY_KIB = 2_500_000
_REPLICA_MEMORY_KIB = 1_500_000
"""Of each further one."""
_ENGINE_DISK_BYTES = 7_000_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    good: bool
    text: str


def examine(settings: Settings) -> list[Finding]:
    """Look at everything; a running instance's own ports are no fault."""
    running = is_running(settings.home)
    findings = [
        _try(
            "Python", lambda: (preflight.check_python(), f"{platform.python_version()} ({sys.executable})")[1]
        ),
        _try("Home", lambda: (preflight.check_home(settings.home), str(settings.home))[1]),
        _try("Disk", lambda: _disk(settings)),
        _instance(settings, running=running),
    ]
    if settings.embedded:
        findings.append(
            _try("Platform", lambda: (preflight.check_platform(), f"Linux on {platform.machine()}")[1])
        )
    if settings.database_url is None:
        findings.append(_try("PostgreSQL", _postgres))
    if settings.redis_url is None:
        findings.append(_try("Redis", _redis))
    if not running:
        ports = [(settings.port, "WEIGHBRIDGE_PORT"), (settings.admin_port, "WEIGHBRIDGE_ADMIN_PORT")]
        for port, variable in ports:
            if port is not None:
                findings.append(_port(settings.host, port, variable))
    if settings.engine == "vllm" and settings.engine_url is None:
        findings += [_memory(settings.engine_replicas), _engine(settings)]
    findings.append(_secret(settings))
    return findings


def _try(subject: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, True, look())
    except (CannotRun, EmbeddedError) as exc:
        return Finding(subject, False, str(exc))


def _port(host: str, port: int, variable: str) -> Finding:
    return _try(f"Port {port}", lambda: (preflight.check_port(host, port, variable), "free")[1])


def _disk(settings: Settings) -> str:
    preflight.check_disk(settings.home)
    free = shutil.disk_usage(settings.home).free
    text = f"{free // 1_000_000} MB free"
    engine = settings.engine == "vllm" and settings.engine_url is None
    if engine and free < _ENGINE_DISK_BYTES and not (settings.home / "engine-venv").exists():
        text += (
            f"; the local engine takes up to {_ENGINE_DISK_BYTES // 1_000_000_000} GB when it is installed"
        )
    return text


def _instance(settings: Settings, *, running: bool) -> Finding:
    state = State.load(settings.home)
    if not running:
        left = (
            [] if state is None else [f"{n} ({each.pid})" for n, each in state.children.items() if each.runs]
        )
        if left:
            return Finding("Instance", True, f"not running; still ending: {', '.join(left)}")
        return Finding("Instance", True, "not running")
    if state is None:
        return Finding("Instance", False, "running, but its state file cannot be read; restart it")
    down = [name for name, note in state.children.items() if not note.runs]
    if down:
        return Finding(
            "Instance", False, f"running, but these are down: {', '.join(down)}; see `weighbridge logs`"
        )
    return Finding("Instance", True, f"{state.phase} at {state.address} (process {state.supervisor.pid})")


def _postgres() -> str:
    own_name()
    folder = postgres_programs(None)
    if not os.access(folder / "bin" / "postgres", os.X_OK):
        raise EmbeddedError(
            f"{folder / 'bin' / 'postgres'} cannot be executed; run `make run`, which repairs it."
        )
    return f"embedded, from {folder}"


def _redis() -> str:
    program = redis_program(None)
    version = redis_version(program)
    if version is None:
        raise EmbeddedError(f"{program} does not run on this machine; install Redis or Valkey 6.2 or newer.")
    return f"embedded, {'.'.join(map(str, version))} from {program}"


def _memory(replicas: int) -> Finding:
    needed = _ENGINE_MEMORY_KIB + (replicas - 1) * _REPLICA_MEMORY_KIB
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1])
            return Finding(
                "Memory for the engine",
                available > needed,
                f"{available // 1000} MB available"
                + (
                    ""
                    if available > needed
                    else f"; {needed // 1000} MB are needed (WEIGHBRIDGE_ENGINE=none goes without)"
                ),
            )
    return Finding("Memory for the engine", True, "unknown")


def _engine(settings: Settings) -> Finding:
    made = environment.find(settings.home / "engine-venv", has_gpu())
    if made is not None:
        return Finding("Engine", True, f"installed ({made.source.says})")
    try:
        check_platform()
    except EngineUnavailable as problem:
        return Finding("Engine", False, str(problem))
    return Finding("Engine", True, "not installed yet; the first start does it, in some minutes")


def _secret(settings: Settings) -> Finding:
    if not settings.secret_file.exists():
        return Finding("Master key", settings.embedded, f"{settings.secret_file} does not exist yet")
    mode = settings.secret_file.stat().st_mode & 0o777
    if mode & 0o077:
        return Finding("Master key", False, f"{settings.secret_file} can be read by others; chmod 600 it")
    return Finding("Master key", True, str(settings.secret_file))
