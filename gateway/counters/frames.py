"""The bytes that the scripts of the hot path take and give: fixed little-endian layouts, as in the scripts' heads."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from struct import Struct

import msgspec

REFUSED, GRANTED, LOST, STALE_EDGES, CLAIMED, ENDED, ADMITTED = 0, 1, 2, 3, 4, 5, 6
CLAIM_REASONS = {1: "other_body", 2: "in_flight", 3: "already_completed"}

DRAW = Struct("<5B5q")
ASK = Struct("<5q")
ENTRY = Struct("<B3q")
HELD = Struct("<B3qI")
TIME = Struct("<q")
GRANT = Struct("<3q")
REFUSAL = Struct("<5q")
HEAD_BYTES = 9
"""The code and the time, which begin every reply."""

Entry = tuple[int, int, int, int]
"""(kind, position, window in ms, delta)."""


class Grant(msgspec.Struct, frozen=True, gc=False):
    """An admission as Redis replied it."""

    at_ms: int
    sequence: int
    output: int
    positions: tuple[int, ...]
    """Of each tap, in order: sub-bucket, period start or 0; -1 where it was not charged."""
    remaining: tuple[int, ...]
    resets: tuple[int, ...]


def grant_of(reply: bytes) -> Grant:
    """Read a reply that begins with GRANTED."""
    at_ms, sequence, output = GRANT.unpack_from(reply, 1)
    numbers = _numbers((len(reply) - 25) // 8).unpack_from(reply, 25)
    return Grant(at_ms, sequence, output, numbers[::3], numbers[1::3], numbers[2::3])


def entries_of(entries: Sequence[Entry]) -> bytes:
    """Entries for the settlement script."""
    return b"".join(ENTRY.pack(*each) for each in entries)


def hold_of(taken: Sequence[tuple[str, Entry]]) -> bytes:
    """What a hold has, as the reservation's script keeps it."""
    return b"".join(HELD.pack(*entry, len(key.encode())) + key.encode() for key, entry in taken)


def held_of(record: bytes) -> list[tuple[str, Entry]]:
    """What a hold has, as the reservation's script kept it: each counter's key and what was taken of it."""
    found: list[tuple[str, Entry]] = []
    offset = 0
    while offset < len(record):
        *entry, length = HELD.unpack_from(record, offset)
        offset += HELD.size + length
        found.append((record[offset - length : offset].decode(), (entry[0], entry[1], entry[2], entry[3])))
    return found


@lru_cache(maxsize=256)
def entry_layout(count: int) -> Struct:
    """The layout of so many entries in a row."""
    return Struct("<" + "B3q" * count)


@lru_cache(maxsize=256)
def _numbers(count: int) -> Struct:
    return Struct(f"<{count}q")
