"""A reader takes whole frames only, wherever the file ends and whatever is in it."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from gateway.spool.books import Place
from gateway.spool.quarantine import Quarantine
from gateway.spool.reader import SpoolReader
from gateway.spool.records import HEAD, frame
from gateway.spool.retention import drop_old_segments, drop_old_spools, mark_closed
from gateway.spool.segments import Header, header_bytes, payloads, segment_numbers, segment_path
from gateway.spool.writer import SpoolWriter
from tests.spool.making import attempt, intent, progress, settlement


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / str(uuid4())
    made.mkdir()
    return made


def write_segment(folder: Path, number: int, body: bytes) -> None:
    segment_path(folder, number).write_bytes(header_bytes(Header(b"w" * 16, number, 1)) + body)


def reader(folder: Path, start: Place | None = None) -> SpoolReader:
    return SpoolReader(folder, Quarantine(folder.parent), start)


def test_cut_at_any_byte_a_segment_gives_its_whole_frames_and_nothing_else() -> None:
    begun = [intent() for _ in range(3)]
    frames = [frame(record) for each in begun for record in (each, settlement(each))]
    data = b"".join(frames)
    ends = [sum(map(len, frames[:count])) for count in range(len(frames) + 1)]
    for cut in range(len(data) + 1):
        whole = sum(end <= cut for end in ends) - 1
        found = list(payloads(data[:cut]))
        assert len(found) == whole
        assert [stop for _, stop in found] == ends[1 : whole + 1]


def test_a_spool_cut_at_any_byte_is_read_on_when_the_rest_arrives(folder: Path) -> None:
    begun = intent()
    head = header_bytes(Header(b"w" * 16, 1, 1))
    data = head + frame(begun) + frame(settlement(begun))
    path = segment_path(folder, 1)
    for cut in range(len(head), len(data)):
        path.write_bytes(data[:cut])
        spool = reader(folder)
        assert spool.read(10) == []
        assert spool.at_end
        path.write_bytes(data)
        assert [each.request.request_id for each in spool.read(10)] == [begun.request_id]
        spool.close()


def test_any_flipped_bit_in_a_frame_ends_the_reading_there() -> None:
    first, second = intent(), intent()
    data = frame(first) + frame(second)
    for bit in range(0, len(frame(first)) * 8, 7):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        for payload, _ in payloads(bytes(damaged)):
            assert payload == frame(second)[HEAD.size :]


def test_zeros_behind_the_last_frame_are_no_records(folder: Path) -> None:
    begun = intent()
    write_segment(folder, 1, frame(begun) + frame(settlement(begun)) + bytes(4096))
    spool = reader(folder)
    assert len(spool.read(10)) == 1
    assert spool.at_end
    spool.close()
    assert list(payloads(bytes(4096))) == []


def test_reading_begins_again_at_the_oldest_open_request(folder: Path) -> None:
    old, new = intent(), intent()
    write_segment(folder, 1, frame(old) + frame(new) + frame(settlement(new)))
    spool = reader(folder)
    assert [each.request.request_id for each in spool.read(10)] == [new.request_id]
    place = spool.place
    spool.close()
    with segment_path(folder, 1).open("ab") as file:
        file.write(frame(settlement(old)))
    again = reader(folder, place)
    assert {each.request.request_id for each in again.read(10)} == {old.request_id, new.request_id}
    assert again.place.offset == segment_path(folder, 1).stat().st_size
    again.close()


def test_damage_in_the_middle_costs_only_what_is_damaged(folder: Path) -> None:
    one, two, three = intent(), intent(), intent()
    broken = bytearray(frame(two))
    broken[40] ^= 1
    body = frame(one) + frame(settlement(one)) + bytes(broken) + frame(three) + frame(settlement(three))
    write_segment(folder, 1, body)
    write_segment(folder, 2, b"")
    spool = reader(folder)
    assert [each.request.request_id for each in spool.read(10)] == [one.request_id, three.request_id]
    kept = list((folder.parent / "quarantine").glob("*.bytes"))
    assert [path.read_bytes() for path in kept] == [bytes(broken)]
    spool.close()


def test_a_record_of_a_kind_not_known_here_goes_aside_and_the_rest_is_read(folder: Path) -> None:
    import zlib

    begun = intent()
    strange = msgspec.msgpack.encode([99, "from a later version"])
    body = HEAD.pack(len(strange), zlib.crc32(strange)) + strange + frame(begun) + frame(settlement(begun))
    write_segment(folder, 1, body)
    spool = reader(folder)
    assert len(spool.read(10)) == 1
    assert len(list((folder.parent / "quarantine").glob("*.bytes"))) == 1
    spool.close()


def test_requests_are_joined_over_the_edge_of_segments(tmp_path: Path) -> None:
    with SpoolWriter(tmp_path, segment_bytes=1_500) as writer:
        begun = [intent() for _ in range(30)]
        for each in begun:
            writer.append(each)
        for each in begun:
            writer.append(progress(each))
            writer.append(attempt(each, 1, outcome="error", output=0, fresh_input=0, cost_nano_usd=0))
            writer.append(settlement(each, attempt(each, 2)))
        spool = reader(writer.folder)
        found = []
        while some := spool.read(7):
            found += some
        assert [each.request.request_id for each in found] == [each.request_id for each in begun]
        assert {each.request.attempts for each in found} == {2}
        assert spool.open == {}
        spool.close()


def test_drained_segments_are_kept_for_a_day(tmp_path: Path) -> None:
    with SpoolWriter(tmp_path, segment_bytes=1_500) as writer:
        for _ in range(10):
            writer.append(begun := intent())
            writer.append(settlement(begun))
        numbers = segment_numbers(writer.folder)
        place = Place(numbers[-1], 0)
        assert drop_old_segments(writer.folder, place) == 0
        assert drop_old_segments(writer.folder, place, keep_seconds=0) == len(numbers) - 1
        assert segment_numbers(writer.folder) == numbers[-1:]
        mark_closed(writer.folder)
    assert drop_old_spools(tmp_path) == []
    assert drop_old_spools(tmp_path, keep_seconds=0) == [writer.worker_id]
    assert not writer.folder.exists()
