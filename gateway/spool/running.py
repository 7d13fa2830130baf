"""The streams that run now and their tokens so far, in a small mapped file beside the segments.

A mapped page outlives a killed process as an appended record does, at a tenth of a write's cost: so every piece can
be noted before it is passed on, and an interrupted request is charged for at least what its caller got. After a power
cut it may be stale or empty; the checkpoints in the segments then hold.
"""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path
from struct import Struct
from typing import NamedTuple

NAME = "running"
_SLOT = Struct("<16sIIII")
_COUNTS = Struct("<IIII")
_COMPLETION = 24
"""Where a slot's output tokens are."""
_SLOTS = 8192
_EMPTY = bytes(_SLOT.size)
NO_SLOT = -1


class Seen(NamedTuple):
    """One stream as its worker last noted it."""

    attempt: int
    prompt_tokens: int
    completion_tokens: int
    cache_read_tokens: int


class RunningTable:
    """The writer's side: one slot a stream; a stream beyond the last slot goes without."""

    def __init__(self, folder: Path) -> None:
        """Raises OSError where the file cannot be made."""
        fd = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Written rather than truncated: a hole on a full disk would kill the process when it is touched.
            size = _SLOT.size * (_SLOTS + 1)
            if os.write(fd, bytes(size)) != size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._map = mmap.mmap(fd, 0)
        finally:
            os.close(fd)
        self.words = memoryview(self._map).cast("I")
        """The table in words of four bytes: one of them is written by a store, without a call."""
        self._free: list[int] = []
        """Slots that were given back."""
        self._fresh = 0
        """The first slot that was never taken."""

    def begin(self, request_id: bytes, attempt: int) -> int:
        """Take a slot for a stream that has sent its first byte; NO_SLOT where none is left."""
        if self._free:
            slot = self._free.pop()
        elif self._fresh < _SLOTS:
            slot, self._fresh = self._fresh, self._fresh + 1
        else:
            return NO_SLOT
        _SLOT.pack_into(self._map, slot * _SLOT.size, request_id, attempt, 0, 0, 0)
        return slot

    def note(self, slot: int, attempt: int, prompt: int, completion: int, cache_read: int) -> None:
        """Write the tokens so far."""
        _COUNTS.pack_into(self._map, slot * _SLOT.size + 16, attempt, prompt, completion, cache_read)

    def completion_at(self, slot: int) -> int:
        """Where in `words` the slot's output tokens are; a stream without a slot writes where nobody reads."""
        return ((slot if slot >= 0 else _SLOTS) * _SLOT.size + _COMPLETION) // 4

    def end(self, slot: int) -> None:
        """Give the slot back: the request is settled."""
        at = slot * _SLOT.size
        self._map[at : at + _SLOT.size] = _EMPTY
        self._free.append(slot)

    def close(self) -> None:
        """Unmap."""
        self.words.release()
        self._map.close()


def read_running(folder: Path) -> dict[bytes, Seen]:
    """What a dead worker last noted, by request id; empty where there is no such file."""
    try:
        data = (folder / NAME).read_bytes()
    except OSError:
        return {}
    found: dict[bytes, Seen] = {}
    for request_id, *counts in _SLOT.iter_unpack(data[: len(data) - len(data) % _SLOT.size]):
        if request_id != _EMPTY[:16]:
            found[request_id] = Seen(*counts)
    return found
