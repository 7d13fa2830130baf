"""A worker's own spool: appending is one write to the page cache, which outlives the process.

What a kill can lose is nothing that was appended; what a power cut can lose is at most the last 50 ms. Past the cap,
or with the disk full, requests that would begin are refused; those that run can still be settled.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID, uuid4
from zlib import crc32

from gateway.errors import Unavailable
from gateway.spool.owning import begin_segment, claim
from gateway.spool.records import HEAD, Intent, Progress, Record, encoded, frame
from gateway.spool.reserve import MIB, RESERVE_BYTES, Reserve
from gateway.spool.running import RunningTable
from gateway.spool.segments import LARGEST_FRAME, read_position

logger = logging.getLogger(__name__)

SYNC_SECONDS = 0.05
_POSITION_EVERY = 10
"""Looks at the drainer's word, in turns of the sync thread."""
ALERT_PERCENT = 80


class SpoolFull(Unavailable):
    """The books cannot take another request for now; nothing was written of it."""

    code = "books_full"


class SpoolWriter:
    """One spool, written by the one process that holds its lock.

    For example:
        with SpoolWriter(settings.spool_dir) as spool:
            spool.append(intent)
    """

    def __init__(
        self,
        root: Path,
        *,
        worker_id: UUID | None = None,
        segment_bytes: int = 16 * MIB,
        cap_bytes: int = 1024 * MIB,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> None:
        """`root` is the host's folder of spools; `cap_bytes` bounds what is not yet in the ledger."""
        self.worker_id = worker_id or uuid4()
        self.folder = root / str(self.worker_id)
        self.numbered = 0
        """How many intents and settlements were appended, as their numbers say."""
        self._segment_bytes = segment_bytes
        self._cap_bytes = cap_bytes
        self._reserve = Reserve(self.folder, reserve_bytes)
        self._sizes: dict[int, int] = {}
        """Bytes of each segment that is not drained whole."""
        self._drained = (0, 0)
        self._closed_bytes = 0
        """Bytes not drained, but for those of the present segment."""
        self._waiting: list[bytes] = []
        """Frames that found the disk full; nothing new begins until they are written."""
        self._no_room = False
        self._slow = threading.RLock()
        """Held wherever both threads may change the same; appending takes it only while something is wrong."""
        self._retired: list[int] = []
        self._dirty = False
        self._full = False
        self._alerted = False
        self._stop = threading.Event()
        self._woken = threading.Event()
        self.resting = False
        """The sync thread has nothing to do until more is appended."""
        self._lock = claim(root, self.folder)
        try:
            self._reserve.fill()
            self._number = 0
            self._open_segment()
            self.running = RunningTable(self.folder)
        except OSError as exc:
            os.close(self._lock)
            raise SpoolFull(f"The spool {self.folder} cannot be written: {exc.strerror}.") from exc
        self._thread = threading.Thread(target=self._sync_forever, name="spool-sync", daemon=True)
        self._thread.start()

    @property
    def undrained_bytes(self) -> int:
        """Bytes written but not yet in the ledger, as far as is known."""
        segment, offset = self._drained
        return self._closed_bytes + self._size - (offset if segment == self._number else 0)

    @property
    def cap_bytes(self) -> int:
        """Where new work is refused."""
        return self._cap_bytes

    def admits(self) -> bool:
        """Whether new work may start."""
        return not self._full

    def append(self, record: Record) -> None:
        """Append one record; raises SpoolFull, having written nothing, where an Intent finds no room."""
        if self._full:
            if isinstance(record, Intent):
                raise SpoolFull("The gateway's books are full; try again shortly.", retry_after_seconds=5)
            with self._slow:
                if not self._write_waiting():
                    self._wait(record, frame(record))
                    return
        payload = encoded(record)
        # As `frame` does, which a call saved: two records are appended for every call.
        size = len(payload)
        data = HEAD.pack(size, crc32(payload)) + payload
        size += HEAD.size
        if size > LARGEST_FRAME:
            raise ValueError(f"a record of {size} bytes is too large for the spool")
        try:
            written = os.write(self._fd, data)
            if written != size:
                self._finish(data, written)
        except OSError as exc:
            self._out_of_room(record, data, exc)
            return
        self._size += size
        if not self._dirty:
            self._soiled()
        if self._size >= self._segment_bytes:
            self._rotate()

    def refresh(self) -> None:
        """Read how far the drainer has come, and decide anew whether new work may begin; done twice a second."""
        with self._slow:
            self._drained = read_position(self.folder)
            self._count_closed()
            self._judge()

    def close(self) -> None:
        """Write through to the disk and give the lock up: from here on the spool counts as ended."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._woken.set()
        self._thread.join()
        if not self._write_waiting():
            logger.critical("spool %s ends with %d records unwritten", self.folder, len(self._waiting))
        self._sync()
        self.running.close()
        os.close(self._fd)
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- files ---------------------------------------------------------------------------------

    def _open_segment(self) -> None:
        number = self._number + 1
        fd, size = begin_segment(self.folder, self.worker_id, number)
        self._fd, self._number, self._size = fd, number, size

    def _rotate(self) -> None:
        old_fd, old_number, old_size = self._fd, self._number, self._size
        try:
            self._open_segment()
        except OSError:
            # No room for a new one: the present one goes on growing.
            return
        with self._slow:
            self._retired.append(old_fd)
            self._sizes[old_number] = old_size
            self._count_closed()
            self._judge()

    def _finish(self, data: bytes, written: int) -> None:
        """Write the rest of a frame, or take its beginning away again."""
        try:
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise

    # -- room ----------------------------------------------------------------------------------

    def _out_of_room(self, record: Record, data: bytes, exc: OSError) -> None:
        with self._slow:
            if not self._no_room:
                logger.critical(
                    "spool %s: the disk refuses writes (%s); new requests are refused",
                    self.folder,
                    exc.strerror,
                )
            self._full = self._no_room = True
            if isinstance(record, Intent):
                raise SpoolFull(
                    "The gateway's books cannot be written; try again shortly.", retry_after_seconds=10
                ) from exc
            self._wait(record, data)
            if self._reserve.release():
                self._write_waiting()

    def _wait(self, record: Record, data: bytes) -> None:
        # A checkpoint may be missed, the settlement that follows may not.
        if not isinstance(record, Progress):
            self._waiting.append(data)

    def _write_waiting(self) -> bool:
        """Write the frames that found no room, in their order; False while some still find none."""
        while self._waiting:
            data = self._waiting[0]
            try:
                written = os.write(self._fd, data)
                if written != len(data):
                    self._finish(data, written)
            except OSError:
                return False
            self._waiting.pop(0)
            self._size += len(data)
            self._soiled()
        return True

    def _judge(self) -> None:
        """Decide anew whether new work may begin."""
        used = self.undrained_bytes
        percent = used * 100 // self._cap_bytes
        if percent >= ALERT_PERCENT and not self._alerted:
            logger.error("spool %s is at %d %% of its cap; is the drainer running?", self.folder, percent)
        # Told once, and again only after it had gone well below.
        self._alerted = percent >= ALERT_PERCENT or (self._alerted and percent >= ALERT_PERCENT - 10)
        if self._no_room:
            self._no_room = not (self._write_waiting() and self._reserve.restored())
        full = used >= self._cap_bytes or self._no_room
        if full and not self._full:
            logger.critical("spool %s has reached its cap; new requests are refused", self.folder)
        elif self._full and not full:
            logger.warning("spool %s has room again", self.folder)
        self._full = full

    def _count_closed(self) -> None:
        segment, offset = self._drained
        for number in [each for each in self._sizes if each < segment]:
            del self._sizes[number]
        self._closed_bytes = sum(self._sizes.values()) - (offset if segment in self._sizes else 0)

    # -- the sync thread -----------------------------------------------------------------------

    def _soiled(self) -> None:
        """Something was written that is not on the disk yet."""
        self._dirty = True
        if self.resting:
            self._woken.set()

    def _sync_forever(self) -> None:
        turn = 0
        while not self._stop.wait(SYNC_SECONDS):
            self._sync()
            turn += 1
            if turn % _POSITION_EVERY == 0:
                self.refresh()
                if not self._dirty and not self._full and not self.undrained_bytes:
                    self._rest()

    def _rest(self) -> None:
        """All that was written is on the disk and in the ledger: wait until more is."""
        self._woken.clear()
        self.resting = True
        # Looked at once more: who wrote just now may have seen nobody resting.
        if not self._dirty and not self._stop.is_set():
            self._woken.wait()
        self.resting = False

    def _sync(self) -> None:
        if not self._dirty and not self._retired:
            return
        self._dirty = False
        try:
            while self._retired:
                fd = self._retired.pop(0)
                os.fdatasync(fd)
                os.close(fd)
            os.fdatasync(self._fd)
        except OSError as exc:
            logger.critical("spool %s cannot be written through to its disk: %s", self.folder, exc.strerror)
