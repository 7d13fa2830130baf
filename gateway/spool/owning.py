"""A spool's folder taken by its owner, and each of its segments begun.

Nothing has its name before it is whole: the drainer never sees a folder whose owner only seems dead, nor a segment
without its header.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from uuid import UUID

from gateway.spool.segments import OWNER_LOCK, Header, header_bytes, segment_path


def claim(root: Path, folder: Path) -> int:
    """Make the folder below `root`; the lock on it, held for as long as its owner lives."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = root / f".{folder.name}.new"
    fresh.mkdir(mode=0o700)
    lock = os.open(fresh / OWNER_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fresh.rename(folder)
    return lock


def begin_segment(folder: Path, worker_id: UUID, number: int) -> tuple[int, int]:
    """A segment to append to, with its header written, and how long that is; raises OSError, having left nothing."""
    head = header_bytes(Header(worker_id.bytes, number, time.time_ns() // 1_000_000))
    path = segment_path(folder, number)
    fresh = folder / f".{path.name}"
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        if os.write(fd, head) != len(head):
            raise OSError(28, "No space left on device")
        fresh.rename(path)
    except OSError:
        os.close(fd)
        fresh.unlink(missing_ok=True)
        raise
    return fd, len(head)
