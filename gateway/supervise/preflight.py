"""What must hold before anything is started, each miss as one sentence that says what to do.

Nothing is changed here: a start that is refused leaves the machine as it was.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engines.local.models import NoSuchModel
from engines.mixture.recipe import CannotFit
from gateway.settings import Settings
from gateway.supervise.engine import arranged

OLDEST_PYTHON = (3, 11)
LEAST_FREE_BYTES = 200 * 1000 * 1000
_MACHINES = ("x86_64", "aarch64")


class CannotRun(RuntimeError):
    """Weighbridge cannot start or go on; the text is meant for the person who started it."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that listens on a port."""

    pid: int
    name: str


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> None:
    """Refuse a Python that is too old."""
    if version < OLDEST_PYTHON:
        raise CannotRun(f"This is Python {version[0]}.{version[1]}; Weighbridge needs Python 3.11 or newer.")


def check_platform(system: str = platform.system(), machine: str = platform.machine()) -> None:
    """Refuse a platform for which the embedded servers have no programs."""
    if system != "Linux" or machine not in _MACHINES:
        raise CannotRun(
            f"The embedded PostgreSQL and Redis run on Linux (x86_64, aarch64), and this is {system} on {machine}; "
            "set WEIGHBRIDGE_DATABASE_URL and WEIGHBRIDGE_REDIS_URL to servers of your own."
        )


def check_home(home: Path) -> None:
    """Make the home and try a write in it."""
    try:
        if not home.exists():
            home.mkdir(parents=True)
            # As root the servers run under users of their own, which must pass through without looking around.
            home.chmod(0o711 if os.geteuid() == 0 else 0o700)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as exc:
        raise CannotRun(
            f"{home} cannot be written to ({exc.strerror}); set WEIGHBRIDGE_HOME to a folder of yours."
        ) from exc


def check_disk(home: Path, free: int | None = None) -> None:
    """Refuse to start on a disk that is all but full: a store that cannot write helps nobody."""
    room = shutil.disk_usage(home).free if free is None else free
    if room < LEAST_FREE_BYTES:
        raise CannotRun(
            f"Only {room // 1_000_000} MB are free on the disk of {home}, and {LEAST_FREE_BYTES // 1_000_000} MB "
            "are needed to start; free some space, or set WEIGHBRIDGE_HOME to another disk."
        )


def check_engine(settings: Settings) -> None:
    """Refuse a model that this machine cannot serve, before anything is started; the arithmetic is in the text."""
    try:
        arranged(settings, settings.engine_replicas)
    except (NoSuchModel, CannotFit) as problem:
        raise CannotRun(f"WEIGHBRIDGE_ENGINE_MODEL cannot be served here. {problem}") from problem


def check_port(host: str, port: int, variable: str) -> None:
    """Refuse a port that something else holds, and say what where that can be known."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as exc:
        raise CannotRun(f"WEIGHBRIDGE_HOST {host!r} is no address of this machine ({exc.strerror}).") from exc
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As our listeners do: connections that are still in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except PermissionError as exc:
            raise CannotRun(
                f"Port {port} may not be opened by this user; set {variable} to a port above 1023."
            ) from exc
        except OSError as exc:
            holder = holder_of(port)
            by = f" by process {holder.pid} ({holder.name})" if holder else ""
            if exc.errno == 98:  # EADDRINUSE
                raise CannotRun(
                    f"Port {port} of {host} is in use{by}; end it, or set {variable} to another."
                ) from exc
            raise CannotRun(f"Port {port} of {host} cannot be opened ({exc.strerror}).") from exc


def holder_of(port: int) -> Holder | None:
    """The process that listens on `port`, as far as we may look into processes."""
    inodes = set[str]()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                # State 0A is LISTEN; the local address is ADDRESS:PORT in hexadecimal.
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                if str(descriptor.readlink()) in inodes:
                    return Holder(int(process.name), (process / "comm").read_text().strip())
    return None
