"""Room set aside on the disk for settling what runs when the disk is full.

It is given up once and had again before new work may begin: else nothing would be left for what that work must settle.
"""

from __future__ import annotations

import os
from pathlib import Path

MIB = 1 << 20
RESERVE_BYTES = 4 * MIB


class Reserve:
    """One spool's reserve; without any where it has no bytes."""

    __slots__ = ("_bytes", "_folder")

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._bytes = folder, size

    def fill(self) -> None:
        """Take the room; raises OSError where it cannot be had."""
        if self._bytes == 0:
            return
        fd = os.open(self._folder / "reserve", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, self._bytes)
        finally:
            os.close(fd)

    def release(self) -> bool:
        """Give the room up; False where there is none to give."""
        try:
            (self._folder / "reserve").unlink()
        except OSError:
            return False
        return True

    def restored(self) -> bool:
        """Whether it, given up or not, and a little more can be had."""
        probe = self._folder / "probe"
        try:
            self.fill()
            fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, MIB)
            finally:
                os.close(fd)
                probe.unlink()
        except OSError:
            return False
        return True
