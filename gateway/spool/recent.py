"""What a dead worker settled, or never began, shortly before its end: read again from its spool.

The worker corrects the counters after it has appended the settlement: a kill in between leaves the ledger right and
the counters wrong, until someone corrects them.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

import msgspec

from gateway.spool.books import Place, Posting
from gateway.spool.joining import Entry, settled
from gateway.spool.records import Intent, Refusal, Settlement
from gateway.spool.segments import decode, payloads, read_header, segment_numbers, segment_path

KEPT_MS = 80_000_000
"""A little less than segments are kept after they were drained: the intents of younger requests are still there."""
LONGEST_REQUEST_MS = 600_000
"""Requests that ran longer than this are left to their counters' expiry."""


def settled_since(folder: Path, worker_id: bytes, since_ms: int) -> list[Posting]:
    """Requests of this spool that ended at `since_ms` or later."""
    open_: dict[bytes, Entry] = {}
    found: list[Posting] = []
    for number in _segments(folder, since_ms - LONGEST_REQUEST_MS):
        data = segment_path(folder, number).read_bytes()
        header = read_header(data)
        for payload, _ in payloads(data, 0 if header is None else header[1]):
            try:
                record = decode(payload)
            except msgspec.DecodeError:
                continue
            if isinstance(record, Intent):
                open_[record.request_id] = Entry(record, Place(number, 0))
            elif isinstance(record, Settlement):
                entry = open_.pop(record.request_id, None)
                if entry is not None and record.ended_at_ms >= since_ms:
                    found.append(settled(entry, record, worker_id))
            elif not isinstance(record, Refusal) and (entry := open_.get(record.request_id)) is not None:
                entry.take(record)
    return found


def without_intent(folder: Path, request_ids: Collection[bytes]) -> set[bytes]:
    """Of requests that were admitted here, those that the spool never heard of."""
    now = time.time_ns() // 1_000_000
    left = {each for each in request_ids if now - _made_ms(each) < KEPT_MS}
    if not left:
        return left
    for number in _segments(folder, min(_made_ms(each) for each in left) - LONGEST_REQUEST_MS):
        data = segment_path(folder, number).read_bytes()
        header = read_header(data)
        for payload, _ in payloads(data, 0 if header is None else header[1]):
            try:
                record = decode(payload)
            except msgspec.DecodeError:
                continue
            if isinstance(record, Intent):
                left.discard(record.request_id)
    return left


def _made_ms(request_id: bytes) -> int:
    """When a UUIDv7 was made."""
    return int.from_bytes(request_id[:6], "big")


def _segments(folder: Path, since_ms: int) -> list[int]:
    """The segments that hold records from `since_ms` on."""
    numbers = segment_numbers(folder)
    for index in range(len(numbers) - 1, 0, -1):
        with segment_path(folder, numbers[index]).open("rb") as file:
            header = read_header(file.read(256))
        if header is not None and header[0].started_at_ms <= since_ms:
            return numbers[index:]
    return numbers
