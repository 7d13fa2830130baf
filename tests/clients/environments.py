"""Environments of clients that run apart, made once from their locks; the standard library is enough to make them.

An environment is made from locked versions, checked by their hashes, below a folder for caches, and is known by its lock's
digest; where it cannot be made here the reason is the test's to skip with.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAKING_SECONDS = 240
JAVASCRIPT = ROOT / "tests" / "clients" / "javascript"


class CannotBeMade(Exception):
    """Why an environment is not there."""


def made(name: str, locks: Sequence[Path], command: Sequence[str], tool: str) -> Path:
    """The folder that `command` fills, run in it; raises CannotBeMade. The same locks are filled in once a machine."""
    if shutil.which(tool) is None and not Path(tool).exists():
        raise CannotBeMade(f"{Path(tool).name} is not on this machine")
    digest = hashlib.sha256(b"".join(each.read_bytes() for each in locks) + sys.version.encode()).hexdigest()
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weighbridge-tests"
    home.mkdir(parents=True, exist_ok=True)
    folder = home / f"{name}-{digest[:16]}"
    with (home / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "finished").exists():
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for each in locks:
            shutil.copy(each, folder)
        try:
            ran = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=MAKING_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as exc:
            raise CannotBeMade(f"it was not made within {MAKING_SECONDS} s") from exc
        if ran.returncode:
            raise CannotBeMade((ran.stderr or ran.stdout).strip()[-300:] or "it gave no reason")
        (folder / "finished").touch()
    return folder


def frameworks() -> Path:
    """The Python of the environment that is made from locks/clients.txt; raises CannotBeMade."""
    # The environment of the tests has no pip of its own; its Python's fills this one, as scripts/bootstrap.py does.
    making = '"$0" -m venv --without-pip venv && "$0" -m pip --python venv/bin/python install -q --require-hashes -r clients.txt'
    python = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    folder = made("clients", [ROOT / "locks" / "clients.txt"], ["sh", "-c", making, str(python)], str(python))
    return folder / "venv" / "bin" / "python"


def javascript() -> Path:
    """A folder with JavaScript's clients installed; raises CannotBeMade."""
    if shutil.which("node") is None:
        raise CannotBeMade("node is not on this machine")
    locks = [JAVASCRIPT / "package-lock.json", JAVASCRIPT / "package.json", JAVASCRIPT / ".npmrc"]
    return made("javascript", locks, ["npm", "ci", "--no-progress"], "npm")
