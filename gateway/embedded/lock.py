"""A lock on a folder's purpose that ends with its holder, however the holder ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class HomeLock:
    """An exclusive flock on `path`; children do not inherit it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(self) -> bool:
        """True when the lock is now (or was already) ours, False when another process holds it."""
        if self._descriptor is not None:
            return True
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Give the lock back; the file stays, for removing it would let two holders meet."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
