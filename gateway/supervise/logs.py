"""The children's logs: kept below a size, and shown to a person.

Children append to the file themselves, so a full log is copied aside and cut: a line written between the two
steps can be lost, and no child ever waits for a reader.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

LARGEST_LOG = 10 * 1024 * 1024
_TAIL_BYTES = 64 * 1024
_TAIL_LINES = 40


async def keep_bounded(folder: Path, *, largest: int = LARGEST_LOG, every: float = 10.0) -> None:
    """Look at the logs' sizes for as long as this runs."""
    while True:
        await asyncio.sleep(every)
        await asyncio.to_thread(rotate, folder, largest)


def rotate(folder: Path, largest: int = LARGEST_LOG) -> None:
    """Move what outgrew `largest` into NAME.log.1; one older file a log is kept."""
    for log in folder.glob("*.log"):
        # A disk that is full must not end the supervisor; the next round tries again.
        with suppress(OSError):
            if log.stat().st_size > largest:
                shutil.copyfile(log, log.with_name(log.name + ".1"))
                os.truncate(log, 0)


def names(folder: Path) -> list[str]:
    """The logs there are, by the names that `weighbridge logs` takes."""
    return sorted(log.stem for log in folder.glob("*.log"))


def show(folder: Path, chosen: list[str], *, follow: bool, out: TextIO = sys.stdout) -> None:
    """Print the end of the chosen logs, each line with its log's name when there are several."""
    width = max((len(name) for name in chosen), default=0)
    offsets = dict[str, int]()
    for name in chosen:
        path = folder / f"{name}.log"
        size = path.stat().st_size if path.exists() else 0
        offsets[name] = size
        for line in _tail(path, size):
            _print(line, name if len(chosen) > 1 else "", width, out)
    while follow:
        time.sleep(0.25)
        for name in chosen:
            for line in _news(folder / f"{name}.log", offsets, name):
                _print(line, name if len(chosen) > 1 else "", width, out)


def _tail(path: Path, size: int) -> list[str]:
    if size == 0:
        return []
    with path.open("rb") as file:
        file.seek(max(0, size - _TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]


def _news(path: Path, offsets: dict[str, int], name: str) -> Iterator[str]:
    size = path.stat().st_size if path.exists() else 0
    if size < offsets[name]:
        offsets[name] = 0
    if size > offsets[name]:
        with path.open("rb") as file:
            file.seek(offsets[name])
            chunk = file.read(size - offsets[name])
        # An unfinished line waits for its end.
        whole = chunk.rfind(b"\n") + 1
        offsets[name] += whole
        yield from chunk[:whole].decode(errors="replace").splitlines()


def _print(line: str, name: str, width: int, out: TextIO) -> None:
    print(f"{name:<{width}} | {line}" if name else line, file=out, flush=True)
