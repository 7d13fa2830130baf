"""Where embedded servers keep data and sockets, so that they can reach them and nobody else can.

A socket's path may be 107 bytes long; and as root a server's own user may not be able to reach a home
below a closed folder such as /root. Both are answered with a short private folder that the home remembers.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import tempfile
from pathlib import Path

from gateway.embedded.account import Account
from gateway.embedded.errors import EmbeddedError

SOCKET_PATH_BYTES = 107
# Clients split a host on commas and colons, and some do not decode the rest.
_PLAIN = re.compile(r"[A-Za-z0-9/._-]+")
_STATE_ROOT = Path("/var/lib/weighbridge")


def private_folder(path: Path, account: Account | None) -> Path:
    """Make `path` a folder that only its server may read; answers the folder to use.

    Where `account` cannot reach it, the folder is kept under /var/lib/weighbridge and `path` links to it.
    """
    if path.is_symlink():
        path = path.resolve()
    elif account is not None and not reachable(path.parent):
        if path.exists():
            raise EmbeddedError(
                f"{path} cannot be entered by the user without rights that its server runs under as root; "
                "start Weighbridge as the user that made it, or choose another WEIGHBRIDGE_HOME."
            )
        # Named by chance, so that a home removed by hand never meets the data it left behind.
        target = _STATE_ROOT / secrets.token_hex(8) / "data"
        _make_state_root(target.parent)
        path.symlink_to(target, target_is_directory=True)
        path = target
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _give(path, account)
    return path


def socket_folder(run: Path, server: str, account: Account | None, *, longest_name: int) -> Path:
    """A private folder for `server`'s socket: inside `run` where that is short and plain, else elsewhere."""
    run.mkdir(parents=True, exist_ok=True)
    folder = run / server
    if not _fits(folder, longest_name) or (account is not None and not reachable(run)):
        folder = _short_base(run, longest_name + len(server) + 1) / server
    folder.mkdir(mode=0o700, exist_ok=True)
    _give(folder, account)
    return folder


def reachable(path: Path) -> bool:
    """True when every folder down to `path` can be passed by a user without rights."""
    path = path.resolve()
    return all(_mode(folder) & stat.S_IXOTH for folder in (path, *path.parents))


def readable_copy(
    source: Path, parts: tuple[str, ...], name: str, samples: tuple[str, ...], account: Account | None
) -> Path:
    """A folder with `parts` that `account` can run: `source`, or a copy where it is closed to that user.

    `samples` are files below `source` that stand for the rest when its permissions are judged.
    """
    if account is None:
        return source
    if reachable(source) and all(_mode(source / each) & stat.S_IROTH for each in samples):
        return source
    target = _STATE_ROOT / "programs" / name
    if target.is_dir():
        return target
    _make_state_root(target.parent)
    scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.parent))
    for part in parts:
        if (source / part).is_dir():
            shutil.copytree(source / part, scratch / part)
        else:
            shutil.copy2(source / part, scratch / part)
    for entry in (scratch, *scratch.rglob("*")):
        if not entry.is_symlink():
            executable = entry.is_dir() or _mode(entry) & stat.S_IXUSR
            entry.chmod(0o755 if executable else 0o644)
    # The rename is what makes the copy exist: a half-made one keeps its scratch name.
    try:
        scratch.rename(target)
    except OSError:
        shutil.rmtree(scratch)
        if not target.is_dir():
            raise
    return target


def _fits(folder: Path, longest_name: int) -> bool:
    length = len(os.fsencode(folder)) + 1 + longest_name
    return length <= SOCKET_PATH_BYTES and _PLAIN.fullmatch(str(folder)) is not None


def _short_base(run: Path, needed: int) -> Path:
    note = run / "socket-folder"
    if note.exists():
        base = Path(note.read_text().strip())
        if base.is_dir() and not base.is_symlink() and base.stat().st_uid == os.geteuid():
            return base
    for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/dev/shm")):  # noqa: S108 - mkdtemp makes it private
        if os.access(parent, os.W_OK | os.X_OK) and _fits(Path(parent) / "weighbridge-xxxxxxxx", needed):
            base = Path(tempfile.mkdtemp(prefix="weighbridge-", dir=parent))
            if os.geteuid() == 0:
                base.chmod(0o711)
            note.write_text(f"{base}\n")
            return base
    raise EmbeddedError(
        f"No place for a local socket: {run} is too long a path and no temporary folder can be used; "
        "set WEIGHBRIDGE_HOME to a shorter path."
    )


def _make_state_root(folder: Path) -> None:
    try:
        for each in (_STATE_ROOT, folder):
            each.mkdir(mode=0o755, parents=True, exist_ok=True)
            each.chmod(0o711)
    except OSError as exc:
        raise EmbeddedError(
            f"As root, servers run under a user without rights, which cannot reach this folder, and {folder} "
            f"cannot be made instead ({exc.strerror}); set WEIGHBRIDGE_HOME to a folder that others may enter."
        ) from exc


def _give(path: Path, account: Account | None) -> None:
    status = path.stat()
    wanted = os.geteuid() if account is None else account.uid
    if status.st_uid != wanted:
        if os.geteuid() != 0:
            raise EmbeddedError(
                f"{path} belongs to user id {status.st_uid}, not to you; "
                "start Weighbridge as the user that made it, or choose another WEIGHBRIDGE_HOME."
            )
        gid = os.getegid() if account is None else account.gid
        for folder, _, files in os.walk(path):
            os.chown(folder, wanted, gid)
            for file in files:
                os.chown(Path(folder) / file, wanted, gid, follow_symlinks=False)
    if stat.S_IMODE(status.st_mode) != 0o700:
        path.chmod(0o700)


def _mode(path: Path) -> int:
    return path.stat().st_mode
