"""The table of running streams: what is noted is found by whoever comes after, and nothing else is."""

from __future__ import annotations

from pathlib import Path

from gateway.spool.running import NO_SLOT, RunningTable, Seen, read_running


def test_what_was_noted_last_is_found_and_what_has_ended_is_not(tmp_path: Path) -> None:
    table = RunningTable(tmp_path)
    first, second = table.begin(b"a" * 16, 1), table.begin(b"b" * 16, 2)
    table.note(first, 1, 10, 5, 2)
    table.note(first, 1, 10, 6, 2)
    table.note(second, 2, 7, 1, 0)
    table.end(second)
    assert read_running(tmp_path) == {b"a" * 16: Seen(1, 10, 6, 2)}


def test_slots_are_used_again_and_streams_beyond_the_last_one_go_without(tmp_path: Path) -> None:
    table = RunningTable(tmp_path)
    slots = [table.begin(number.to_bytes(16, "big"), 1) for number in range(1, 8193)]
    assert len(set(slots)) == 8192
    assert table.begin(b"z" * 16, 1) == NO_SLOT
    table.end(slots[7])
    assert table.begin(b"z" * 16, 1) == slots[7]


def test_a_spool_without_the_file_has_noted_nothing(tmp_path: Path) -> None:
    assert read_running(tmp_path) == {}
