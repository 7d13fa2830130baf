"""The data folder of an embedded PostgreSQL: made by initdb, configured anew on each start.

A folder is made under another name and renamed when it is whole, so a half-made one is never taken for a database.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from gateway.embedded.account import Account, named_account, own_name, popen_options
from gateway.embedded.errors import EmbeddedError
from gateway.embedded.places import private_folder
from gateway.store.ai_query import CALLER

SUPERUSER = "postgres"

_SHM = Path("/dev/shm")  # noqa: S108 - only looked at

_SETTINGS: Mapping[str, str] = {
    "max_connections": "80",
    "superuser_reserved_connections": "3",
    "shared_buffers": "128MB",
    "max_wal_size": "512MB",
    "wal_compression": "on",
    # A worker process for reading ahead would cost memory and give a small database nothing.
    "io_method": "sync",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    # A statement or its detail may hold a secret or a prompt: neither is ever logged.
    "log_statement": "none",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "idle_in_transaction_session_timeout": "60s",
}
_DURABLE: Mapping[str, str] = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
_FAST: Mapping[str, str] = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "shared_buffers": "32MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}


def initialise(programs: Path, data: Path, account: Account | None, *, durable: bool) -> None:
    """Make the data folder `data`, or raise `EmbeddedError` with initdb's last word and leave none."""
    own_name()
    # initdb wants a user with a name; the server itself needs none.
    owner = None if account is None else named_account()
    unfinished = data.with_name(f"{data.name}.new")
    for leftover in data.parent.glob(f"{unfinished.name}*"):
        _remove(leftover)
    if data.exists() or data.is_symlink():
        # No PG_VERSION: what is here was never a database.
        _remove(data)
    fresh = private_folder(unfinished, owner)
    command = [
        programs / "bin" / "initdb", "--pgdata", fresh, "--username", SUPERUSER, "--auth", "peer",
        "--encoding", "UTF8", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C",
        "--no-instructions", *([] if durable else ["--no-sync"]),
    ]  # fmt: skip
    answer = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=fresh,
        env=server_environment(),
        **popen_options(owner),
    )
    if answer.returncode != 0:
        last = (answer.stderr.strip().splitlines() or ["initdb gave no reason"])[-1]
        raise EmbeddedError(f"PostgreSQL could not set up {fresh}: {last}")
    unfinished.rename(data)


def configure(data: Path, account: Account | None, *, durable: bool, over_loopback: bool) -> None:
    """Write the configuration anew on each start, so that an upgrade of ours reaches old data too."""
    settings = {**_SETTINGS, **_DURABLE} if durable else {**_SETTINGS, **_FAST}
    settings["dynamic_shared_memory_type"] = _shared_memory()
    lines = [f"{name} = '{value}'" for name, value in settings.items()]
    # Calls from SQL come from the server itself, whose user need not be ours, and carry a password.
    access = [f"local all +{CALLER} scram-sha-256", "local all all peer map=weighbridge"]
    if over_loopback:
        access += [
            f"host all {SUPERUSER} all reject",
            "host all all 127.0.0.1/32 scram-sha-256",
            "host all all ::1/128 scram-sha-256",
        ]
    note = "# Written by Weighbridge on each start."
    texts = {
        "postgresql.conf": [
            f"{note} Own settings: local.conf",
            *lines,
            *(["include = 'local.conf'"] if (data / "local.conf").exists() else []),
        ],
        "pg_hba.conf": [note, *access],
        "pg_ident.conf": [note, f'weighbridge "{own_name()}" all'],
    }
    for name, text in texts.items():
        path = data / name
        path.write_text("\n".join(text) + "\n")
        if account is not None:
            os.chown(path, account.uid, account.gid)
        path.chmod(0o600)


def server_environment() -> dict[str, str]:
    """What the server's processes see: PG* variables of the caller's shell must not reach them."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C",
        "TMPDIR": tempfile.gettempdir(),
    }


def _shared_memory() -> str:
    # In a bare root file system /dev/shm may be missing or closed to users without rights.
    try:
        return "posix" if _SHM.stat().st_mode & stat.S_IWOTH else "sysv"
    except OSError:
        return "sysv"


def _remove(path: Path) -> None:
    target = path.resolve()
    if path.is_symlink():
        path.unlink()
    if target.exists():
        shutil.rmtree(target)
