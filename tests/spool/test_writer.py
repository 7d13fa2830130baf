"""What a worker appends is there for others at once, whatever then happens to the worker or to its disk."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from gateway.spool import writer as writing
from gateway.spool.quarantine import Quarantine
from gateway.spool.reader import SpoolReader
from gateway.spool.records import Intent, Record, frame
from gateway.spool.segments import (
    OWNER_LOCK,
    decode,
    payloads,
    read_header,
    segment_numbers,
    segment_path,
    write_position,
)
from gateway.spool.writer import SpoolFull, SpoolWriter
from tests.spool.making import intent, progress, settlement


def records_in(folder: Path) -> list[Record]:
    found: list[Record] = []
    for number in segment_numbers(folder):
        data = segment_path(folder, number).read_bytes()
        header = read_header(data)
        assert header is not None
        assert header[0].number == number
        assert UUID(bytes=header[0].worker_id) == UUID(folder.name)
        found += [decode(payload) for payload, _ in payloads(data, header[1])]
    return found


def until_full(spool: SpoolWriter) -> list[Intent]:
    begun: list[Intent] = []
    while True:
        spool.refresh()
        record = intent()
        try:
            spool.append(record)
        except SpoolFull:
            return begun
        begun.append(record)


def test_a_record_is_there_for_others_as_soon_as_it_is_appended(tmp_path: Path) -> None:
    with SpoolWriter(tmp_path) as spool:
        begun = intent()
        spool.append(begun)
        assert records_in(spool.folder) == [begun]


def test_segments_are_rotated_and_each_begins_with_its_header(tmp_path: Path) -> None:
    with SpoolWriter(tmp_path, segment_bytes=2_000) as spool:
        appended = [
            record for begun in (intent() for _ in range(20)) for record in (begun, settlement(begun))
        ]
        for record in appended:
            spool.append(record)
        assert len(segment_numbers(spool.folder)) > 3
        assert records_in(spool.folder) == appended


def test_the_lock_is_not_handed_on_to_children(tmp_path: Path) -> None:
    with SpoolWriter(tmp_path) as spool:
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
        try:
            reader = SpoolReader(spool.folder, Quarantine(tmp_path))
            assert not reader.owner_is_dead()
            spool.close()
            assert reader.owner_is_dead()
            reader.close()
        finally:
            child.kill()
            child.wait()


def test_a_killed_worker_loses_nothing_and_counts_as_dead(tmp_path: Path) -> None:
    script = f"""
import sys, time
from pathlib import Path
from gateway.spool.writer import SpoolWriter
from tests.spool.making import intent, settlement
spool = SpoolWriter(Path({str(tmp_path)!r}))
for _ in range(500):
    begun = intent()
    spool.append(begun)
    spool.append(settlement(begun))
print(spool.folder, flush=True)
time.sleep(60)
"""
    worker = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    folder = Path(worker.stdout.readline().strip())
    reader = SpoolReader(folder, Quarantine(tmp_path))
    assert not reader.owner_is_dead()
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert reader.owner_is_dead()
    assert len(reader.read(1_000)) == 500
    reader.close()


def test_a_drainer_never_sees_a_folder_whose_owner_only_seems_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    lock = fcntl.flock
    monkeypatch.setattr(
        fcntl, "flock", lambda *given: (seen.append(sorted(os.listdir(tmp_path))), lock(*given))
    )
    with SpoolWriter(tmp_path) as spool:
        assert seen == [[f".{spool.worker_id}.new"]]
        assert (spool.folder / OWNER_LOCK).exists()


def test_at_its_cap_it_refuses_new_work_and_still_settles(tmp_path: Path) -> None:
    with SpoolWriter(tmp_path, segment_bytes=4_000, cap_bytes=10_000) as spool:
        begun = until_full(spool)
        assert not spool.admits()
        for record in begun:
            spool.append(progress(record))
            spool.append(settlement(record))
        written = records_in(spool.folder)
        assert len(written) == 3 * len(begun)
        last = segment_numbers(spool.folder)[-1]
        write_position(spool.folder, last, segment_path(spool.folder, last).stat().st_size)
        spool.refresh()
        assert spool.undrained_bytes == 0
        assert spool.admits()
        spool.append(intent())


def test_a_write_that_stops_half_way_leaves_no_torn_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SpoolWriter(tmp_path, reserve_bytes=0) as spool:
        first = intent()
        spool.append(first)
        before = segment_path(spool.folder, 1).read_bytes()
        write = os.write
        calls = 0

        def half(fd: int, data: bytes) -> int:
            nonlocal calls
            calls += 1
            if calls == 1:
                return write(fd, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(writing.os, "write", half)
            with pytest.raises(SpoolFull):
                spool.append(intent())
            assert segment_path(spool.folder, 1).read_bytes() == before
            end = settlement(first)
            spool.append(end)
            assert not spool.admits()
            with pytest.raises(SpoolFull):
                spool.append(intent())
        spool.refresh()
        assert spool.admits()
        assert records_in(spool.folder) == [first, end]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", place]).returncode != 0
    ):
        pytest.skip("needs to be root, and to be allowed to mount")
    yield place
    subprocess.run(["umount", place], check=True)


def test_on_a_full_disk_what_runs_is_settled_from_the_reserve(tiny_disk: Path) -> None:
    with SpoolWriter(tiny_disk, reserve_bytes=128 << 10) as spool:
        begun = until_full(spool)
        for record in begun[-100:]:
            spool.append(settlement(record))
        written = records_in(spool.folder)
        assert written == [*begun, *(settlement(record) for record in begun[-100:])]
        assert not spool.admits()
        spool.refresh()
        assert not spool.admits()


def test_a_frame_cannot_be_larger_than_a_reader_takes(tmp_path: Path) -> None:
    with SpoolWriter(tmp_path) as spool:
        with pytest.raises(ValueError, match="too large"):
            spool.append(intent(tags={"a": "x" * (1 << 20)}))
        spool.append(begun := intent())
        assert records_in(spool.folder) == [begun]


def test_appending_stays_cheap(tmp_path: Path) -> None:
    """Not a benchmark: it fails when an append has become ten times dearer."""
    import time

    with SpoolWriter(tmp_path) as spool:
        record = intent()
        began = time.process_time()
        for _ in range(5_000):
            spool.append(record)
        assert (time.process_time() - began) / 5_000 < 40e-6
    assert len(frame(record)) < 1_000


def test_what_is_appended_while_nothing_is_left_to_do_is_written_through_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "SYNC_SECONDS", 0.001)
    synced = threading.Event()

    def fdatasync(fd: int) -> None:
        synced.set()

    monkeypatch.setattr(writing.os, "fdatasync", fdatasync)
    with SpoolWriter(tmp_path) as spool:
        for _ in range(3):
            spool.append(intent())
            assert synced.wait(30)
            # The drainer has taken all of it: there is nothing to do until more is appended.
            size = segment_path(spool.folder, segment_numbers(spool.folder)[-1]).stat().st_size
            write_position(spool.folder, segment_numbers(spool.folder)[-1], size)
            until(lambda: spool.resting)
            synced.clear()
        assert spool.undrained_bytes == 0
        begun = time.monotonic()
    assert time.monotonic() - begun < 30, "closing wakes it"


class Disk:
    """How much of each segment was written through; `held` is one such writing that waits for `go`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: dict[int, int] = {}
        self.held, self.go = threading.Event(), threading.Event()
        self.go.set()
        monkeypatch.setattr(writing.os, "fdatasync", self._fdatasync)

    def has_all_of(self, spool: SpoolWriter) -> bool:
        segments = [segment_path(spool.folder, each).stat() for each in segment_numbers(spool.folder)]
        return all(self.sizes.get(each.st_ino) == each.st_size for each in segments)

    def _fdatasync(self, fd: int) -> None:
        about = os.fstat(fd)
        if not self.go.is_set():
            self.held.set()
            assert self.go.wait(30)
        self.sizes[about.st_ino] = about.st_size


def test_a_power_cut_costs_no_more_than_the_last_50_ms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            if timeout is not None:
                waits.append(timeout)
            return super().wait(timeout)

    monkeypatch.setattr(writing.threading, "Event", Event)
    with SpoolWriter(tmp_path) as spool:
        monkeypatch.undo()
        spool.append(intent())
        until(lambda: len(waits) > 2)
    assert max(waits) <= 0.05


def test_the_cap_is_looked_at_whenever_a_segment_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "SYNC_SECONDS", 3600)
    with SpoolWriter(tmp_path, segment_bytes=2_000, cap_bytes=6_000) as spool:
        with pytest.raises(SpoolFull):
            for _ in range(100):
                spool.append(intent())
        assert spool.undrained_bytes < 6_000 + 2_000


def test_every_segment_is_written_through_to_its_end_also_at_the_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    monkeypatch.setattr(writing, "SYNC_SECONDS", 3600)
    with SpoolWriter(tmp_path, segment_bytes=2_000) as spool:
        for _ in range(20):
            spool.append(intent())
        assert len(segment_numbers(spool.folder)) > 3
        assert not disk.sizes
    assert disk.has_all_of(spool)


def test_what_is_appended_while_the_disk_is_written_to_is_written_through_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch)
    with SpoolWriter(tmp_path) as spool:
        disk.go.clear()
        spool.append(intent())
        assert disk.held.wait(30)
        spool.append(intent())
        disk.go.set()
        until(lambda: disk.has_all_of(spool))


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)
