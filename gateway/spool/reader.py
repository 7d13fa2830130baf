"""Reads one spool from where it was left, and joins its records into postings.

The position to begin again from is the oldest record whose request is not in the ledger yet. Reading more than once
is harmless, so nothing but that position needs to be kept.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from uuid import UUID

import msgspec

from gateway.spool.books import Place, Posting
from gateway.spool.joining import Entry, settled
from gateway.spool.orphans import interrupted
from gateway.spool.quarantine import Quarantine
from gateway.spool.records import Attempt, Intent, Progress, Refusal, Settlement
from gateway.spool.running import read_running
from gateway.spool.segments import (
    LARGEST_FRAME,
    LARGEST_HEADER,
    OWNER_LOCK,
    decode,
    next_whole_frame,
    payloads,
    read_header,
    segment_numbers,
    segment_path,
)

_CHUNK = 1 << 18
MOST_REFUSALS = 5_000
"""Refusals that may wait to be sealed; beyond, reading waits for it."""


class SpoolReader:
    """One spool, alive or dead."""

    def __init__(self, folder: Path, quarantine: Quarantine, start: Place | None = None) -> None:
        self.folder = folder
        self.spool_id = UUID(folder.name)
        self.open: dict[bytes, Entry] = {}
        """Requests without a settlement, in the order of their intents."""
        self.unmatched: list[tuple[Settlement, Place]] = []
        """Settlements whose intent was not read: of requests that were posted before, or of none."""
        self.refusals: list[tuple[Refusal, Place]] = []
        """Refusals that were read and are not sealed into the audit yet."""
        self.at_end = False
        """Whether the last reading found nothing more."""
        self.last_admitted_ms = 0
        self.read_until_ms = 0
        """All that was appended before was read, by this host's clock; 0: not all was read yet."""
        self.ended_number = 0
        """The highest number of a settlement that was read."""
        self._quarantine = quarantine
        self._worker = self.spool_id.bytes
        self._segment, self._offset = start or (0, 0)
        self._fd = -1
        self._lock = -1
        self._owner = -1
        self._behind = (0, "")
        """The path of the segment behind the present one, with the present one's number."""
        if self._segment and not segment_path(folder, self._segment).exists():
            # It was drained whole and its 24 hours are over.
            self._segment, self._offset = self._later() or 0, 0

    @property
    def place(self) -> Place:
        """Where reading would have to begin again for what is open; of what was read, the caller knows."""
        first = next(iter(self.open.values()), None)
        place = Place(self._segment, self._offset) if first is None else first.place
        return min(place, self.refusals[0][1]) if self.refusals else place

    def read(self, limit: int) -> list[Posting]:
        """Up to `limit` requests that have ended; fewer, or none, when the end of what is written was reached."""
        found: list[Posting] = []
        began_ms = time.time_ns() // 1_000_000
        self.at_end = False
        while len(found) < limit and len(self.refusals) < MOST_REFUSALS and self._ready():
            if not self._take(found, limit, _CHUNK) and not self._advance(found, limit):
                self.at_end = True
                break
        else:
            self.at_end = len(found) < limit and len(self.refusals) < MOST_REFUSALS
        if self.at_end:
            self.read_until_ms = began_ms
        return found

    def owner_is_dead(self) -> bool:
        """Whether the worker has ended; from the first True on, this reader holds the worker's lock."""
        if self._lock >= 0:
            return True
        if self._owner < 0:
            try:
                self._owner = os.open(self.folder / OWNER_LOCK, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                return True
        try:
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        self._lock, self._owner = self._owner, -1
        return True

    def skip_torn_end(self) -> bool:
        """Of a dead owner's spool: put aside what is no whole frame; True if reading can go on behind it."""
        return self._fd >= 0 and self._skip_damage(dead=True)

    def orphans(self) -> list[Posting]:
        """The requests that the dead owner left open."""
        running = read_running(self.folder)
        return [interrupted(entry, self._worker, running.get(id_)) for id_, entry in self.open.items()]

    def close(self) -> None:
        """Let go of the files and of the lock."""
        for fd in (self._fd, self._lock, self._owner):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock = self._owner = -1

    # -- frames --------------------------------------------------------------------------------

    def _take(self, found: list[Posting], limit: int, size: int) -> bool:
        """Consume whole frames of one chunk; False if there was none."""
        if os.fstat(self._fd).st_size == self._offset:
            # Nothing new, as mostly: no room is made for a chunk.
            return False
        data = os.pread(self._fd, size, self._offset)
        base, stop = self._offset, 0
        for payload, stop in payloads(data):
            self._consume(payload, Place(self._segment, self._offset), found)
            self._offset = base + stop
            if len(found) >= limit:
                break
        if stop == 0 and len(data) == size and size < LARGEST_FRAME:
            return self._take(found, limit, LARGEST_FRAME)
        return stop > 0

    def _consume(self, payload: bytes, place: Place, found: list[Posting]) -> None:
        try:
            record = decode(payload)
        except msgspec.DecodeError as exc:
            self._quarantine.damaged(
                self.spool_id, place, payload, f"no record that this version knows: {exc}"
            )
            return
        # By the very type: isinstance asks the structs' metaclass, in Python, for whatever is of another kind.
        if type(record) is Settlement:
            self.ended_number = max(self.ended_number, record.number)
            entry = self.open.pop(record.request_id, None)
            if entry is None:
                self.unmatched.append((record, place))
            else:
                found.append(settled(entry, record, self._worker))
        elif type(record) is Intent:
            self.open.setdefault(record.request_id, Entry(record, place))
            self.last_admitted_ms = record.admitted_at_ms
        elif type(record) is Refusal:
            self.refusals.append((record, place))
        elif isinstance(record, (Attempt, Progress)):
            entry = self.open.get(record.request_id)
            if entry is not None:
                entry.take(record)

    # -- segments ------------------------------------------------------------------------------

    def _ready(self) -> bool:
        """Have a segment open, its header behind us; False while there is none."""
        if self._fd >= 0:
            return True
        if self._segment == 0:
            self._segment = next(iter(segment_numbers(self.folder)), 0)
            if self._segment == 0:
                return False
        self._fd = os.open(segment_path(self.folder, self._segment), os.O_RDONLY | os.O_CLOEXEC)
        if self._offset == 0:
            header = read_header(os.pread(self._fd, LARGEST_HEADER, 0))
            # Without a readable header the search for whole frames begins at the first byte.
            self._offset = 0 if header is None else header[1]
        return True

    def _advance(self, found: list[Posting], limit: int) -> bool:
        """Go on to the next segment if there is one; the present one is then complete."""
        later = self._later()
        if later is None:
            return False
        # Looked at once more: what was appended before the next one was begun may have come after our reading.
        if self._take(found, limit, _CHUNK) or self._skip_damage(dead=False):
            return True
        os.close(self._fd)
        self._fd, self._segment, self._offset = -1, later, 0
        return self._ready()

    def _later(self) -> int | None:
        """The segment behind the present one."""
        if self._behind[0] != self._segment:
            self._behind = self._segment, str(segment_path(self.folder, self._segment + 1))
        if os.path.exists(self._behind[1]):  # noqa: PTH110 - asked four times a second
            return self._segment + 1
        if self._fd >= 0 and self._lock < 0:
            return None
        return next((number for number in segment_numbers(self.folder) if number > self._segment), None)

    def _skip_damage(self, *, dead: bool) -> bool:
        """Put aside bytes that are no frame, up to the next whole one; False if there are none."""
        data = os.pread(self._fd, os.fstat(self._fd).st_size - self._offset, self._offset)
        if not data:
            return False
        found = next_whole_frame(data, 1)
        stop = len(data) if found is None else found
        reason = "the worker died in a write" if dead and found is None else "no whole record"
        self._quarantine.damaged(self.spool_id, Place(self._segment, self._offset), data[:stop], reason)
        self._offset += stop
        return True
