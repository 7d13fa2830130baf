"""A spool's folder and files: names, headers, and whole frames out of bytes that may end anywhere.

A frame counts only if its length and checksum fit, so a torn write, zeros after a power cut or a foreign byte end
the reading and are never taken for a record.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from gateway.spool.records import HEAD, MAGIC, MAX_PAYLOAD, Record

OWNER_LOCK = "owner.lock"
"""Held with flock by the worker for as long as it lives."""
POSITION = "position"
"""Written by the drainer: how far it has come, for the worker's cap."""
SUFFIX = ".seg"


class Header(msgspec.Struct, array_like=True, frozen=True):
    """The first frame of every segment."""

    worker_id: bytes
    number: int
    started_at_ms: int


_header_encoder = msgspec.msgpack.Encoder()
_header_decoder = msgspec.msgpack.Decoder(Header)
_record_decoder = msgspec.msgpack.Decoder(Record)

LARGEST_FRAME = HEAD.size + MAX_PAYLOAD
LARGEST_HEADER = len(MAGIC) + HEAD.size + 64


def segment_path(folder: Path, number: int) -> Path:
    """The file of that segment."""
    return folder / f"{number:08d}{SUFFIX}"


def segment_numbers(folder: Path) -> list[int]:
    """Numbers of the segments in the folder, ascending."""
    return sorted(int(path.stem) for path in folder.glob(f"*{SUFFIX}") if path.stem.isdecimal())


def header_bytes(header: Header) -> bytes:
    """What a segment begins with."""
    payload = _header_encoder.encode(header)
    return MAGIC + HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def read_header(data: bytes) -> tuple[Header, int] | None:
    """A segment's header and the offset behind it; None while it is not whole, or is not one of ours."""
    if not data.startswith(MAGIC):
        return None
    for payload, stop in payloads(data, len(MAGIC)):
        try:
            return _header_decoder.decode(payload), stop
        except msgspec.DecodeError:
            return None
    return None


def payloads(data: bytes, start: int = 0) -> Iterator[tuple[bytes, int]]:
    """Yield (payload, offset behind its frame) from `start`; stops before what is no whole frame."""
    end, head, unpack, crc32 = len(data), HEAD.size, HEAD.unpack_from, zlib.crc32
    while start + head <= end:
        length, crc = unpack(data, start)
        stop = start + head + length
        # No record is empty, but zeros would pass for one: their checksum is zero too.
        if not 0 < length <= MAX_PAYLOAD or stop > end:
            return
        payload = data[start + head : stop]
        if crc32(payload) != crc:
            return
        yield payload, stop
        start = stop


def next_whole_frame(data: bytes, start: int) -> int | None:
    """The offset of the next whole frame at or behind `start`; None if there is none."""
    end, head, unpack = len(data), HEAD.size, HEAD.unpack_from
    for offset in range(start, end - head):
        length, crc = unpack(data, offset)
        stop = offset + head + length
        if 0 < length <= MAX_PAYLOAD and stop <= end and zlib.crc32(data[offset + head : stop]) == crc:
            return offset
    return None


def decode(payload: bytes) -> Record:
    """The record in a frame; raises msgspec.DecodeError for one of a kind that this version does not know."""
    return _record_decoder.decode(payload)


def write_position(folder: Path, segment: int, offset: int) -> None:
    """Leave word for the worker of how far its spool has been drained."""
    fresh = folder / f".{POSITION}"
    fresh.write_text(f"{segment} {offset}\n")
    fresh.replace(folder / POSITION)


def read_position(folder: Path) -> tuple[int, int]:
    """How far the spool has been drained: (segment, offset); (0, 0) if nothing has."""
    try:
        segment, offset = (folder / POSITION).read_text().split()
        return int(segment), int(offset)
    except (FileNotFoundError, ValueError):
        return 0, 0
