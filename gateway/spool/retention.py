"""How long drained segments are kept: a day for `weighbridge spool replay`, less only where the disk is nearly full."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from gateway.spool.books import Place
from gateway.spool.segments import segment_numbers, segment_path

logger = logging.getLogger(__name__)

KEEP_SECONDS = 24 * 3600.0
LEAST_FREE_BYTES = 512 << 20
CLOSED = "closed"
"""A file in a spool's folder: its owner is dead and all of it is in the ledger."""


def spool_folders(root: Path) -> Iterator[Path]:
    """Every spool's folder."""
    if not root.is_dir():
        return
    for folder in root.iterdir():
        try:
            UUID(folder.name)
        except ValueError:
            continue
        yield folder


def mark_closed(folder: Path) -> None:
    """Say that this spool needs no reading any more; its 24 hours begin."""
    (folder / CLOSED).touch()


def mark_drained(folder: Path, before: Place, now: Place) -> None:
    """Let the 24 hours of the segments between two positions begin."""
    for number in range(before.segment, now.segment):
        path = segment_path(folder, number)
        if path.exists():
            os.utime(path)


def drop_old_segments(folder: Path, place: Place, *, keep_seconds: float = KEEP_SECONDS) -> int:
    """Delete segments of a living spool that were drained long enough ago; how many."""
    dropped = 0
    for number in segment_numbers(folder):
        path = segment_path(folder, number)
        if number >= place.segment or not _may_go(path, keep_seconds):
            break
        path.unlink()
        dropped += 1
    return dropped


def drop_old_spools(root: Path, *, keep_seconds: float = KEEP_SECONDS) -> list[UUID]:
    """Delete the folders of closed spools whose time is over; their ids."""
    dropped: list[UUID] = []
    for folder in spool_folders(root):
        mark = folder / CLOSED
        if mark.exists() and _may_go(mark, keep_seconds):
            shutil.rmtree(folder)
            dropped.append(UUID(folder.name))
    return dropped


def _may_go(path: Path, keep_seconds: float) -> bool:
    age = time.time() - path.stat().st_mtime
    if age >= keep_seconds:
        return True
    disk = os.statvfs(path)
    if disk.f_bavail * disk.f_frsize >= LEAST_FREE_BYTES:
        return False
    logger.warning(
        "the spool's disk is nearly full: %s goes after %.0f s instead of %.0f", path, age, keep_seconds
    )
    return True
