"""The oracle's book: what each request asked of the upstream and how many tokens it was sent.

Every journal line is the whole record as it stood, so the last line of a request is the truth and a torn last line
loses one update, never a request. Lines of one turn of the event loop are written together,
and the progress of streams at most every 50 ms.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

_PROGRESS_SECONDS: Final = 0.05

OPEN: Final = "open"
COMPLETE: Final = "complete"  # every byte of the scripted answer was handed to the socket
PEER_CLOSED: Final = "peer_closed"  # the gateway went away first
REFUSED: Final = "refused"  # an HTTP error was answered, scripted or not
RESET: Final = "reset"  # we sent RST
CLOSED: Final = "closed"  # we sent FIN in the middle
TRUNCATED: Final = "truncated"  # the body ended well-formed but early, or with an error event


class OracleRecord(msgspec.Struct, omit_defaults=True):
    """One upstream call. `emitted` counts completion tokens over all choices, as an engine counts them."""

    seq: int
    path: str
    started_at: float
    request_id: str | None = None
    model: str = ""
    stream: bool = False
    max_tokens: int | None = None
    n: int = 1
    include_usage: bool = False
    continuous_usage: bool = False
    priority: int | None = None
    cache_salt: str | None = None
    user: str | None = None
    script: str = ""
    prompt_tokens: int = 0
    emitted: int = 0
    told: bool = False  # it failed, and said with that what it had used
    emitted_after_close: int = 0  # the part of `emitted` that a peer which had gone was billed for
    status: int = 0  # 0: not one byte of an answer was sent
    first_byte_at: float | None = None
    peer_closed_at: float | None = None
    ended_at: float | None = None
    ended: str = OPEN


class Journal:
    """Records in memory, and on disk where a path is given; `at_once` for a process that is to be killed."""

    def __init__(self, path: str | os.PathLike[str] | None = None, *, at_once: bool = False) -> None:
        self._at_once = at_once
        self.records: list[OracleRecord] = []
        self.running = 0
        self.prompt_tokens = 0
        self.emitted = 0
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) if path else None
        self._dirty: dict[int, OracleRecord] = {}
        self._encode = msgspec.json.Encoder().encode
        self._loop: asyncio.AbstractEventLoop | None = None
        self._flushing: asyncio.Handle | None = None
        self._urgent = False
        self._changed: list[Callable[[], None]] = []

    def batch_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Write beginnings and endings at the end of the loop's turn, progress every 50 ms."""
        self._loop = loop

    def begin(self, record: OracleRecord) -> None:
        """A request arrived whole. It is written before any byte of its answer is."""
        self.records.append(record)
        self.running += 1
        self.prompt_tokens += record.prompt_tokens
        self.touch(record)

    def emit(self, record: OracleRecord, tokens: int, *, peer_gone: bool = False) -> None:
        """Tokens were handed to the socket, or generated for a peer that has gone."""
        record.emitted += tokens
        self.emitted += tokens
        if peer_gone:
            record.emitted_after_close += tokens
        self.touch(record, progress=True)

    def end(self, record: OracleRecord, ended: str) -> None:
        """The request is over. Only the first ending counts."""
        if record.ended != OPEN:
            return
        record.ended = ended
        record.ended_at = time.time()
        self.running -= 1
        self.touch(record)

    def touch(self, record: OracleRecord, *, progress: bool = False) -> None:
        """Note that a record has changed."""
        if self._file is not None:
            self._dirty[record.seq] = record
            if self._at_once:
                # Before the bytes that it tells of: whoever has them, the book has them.
                self.flush()
            elif self._loop is not None:
                if progress:
                    self._flushing = self._flushing or self._loop.call_later(_PROGRESS_SECONDS, self.flush)
                elif not self._urgent:
                    self._urgent = True
                    self._loop.call_soon(self.flush)
        if self._changed:
            waiting, self._changed = self._changed, []
            for wake in waiting:
                wake()

    def on_change(self, wake: Callable[[], None]) -> None:
        """Call `wake` once at the next change."""
        self._changed.append(wake)

    def flush(self) -> None:
        """Append every changed record to the file, in one write."""
        self._urgent = False
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        if self._file is None or not self._dirty:
            return
        lines = b"".join(self._encode(record) + b"\n" for record in self._dirty.values())
        self._dirty.clear()
        while lines:
            lines = lines[os.write(self._file, lines) :]

    def close(self) -> None:
        """Flush and close the file."""
        self.flush()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def of(self, request_id: str) -> list[OracleRecord]:
        """The attempts of one gateway request, in order."""
        return [record for record in self.records if record.request_id == request_id]

    def forget(self) -> None:
        """Drop finished records, so that the next measurement starts at zero."""
        self.records = [record for record in self.records if record.ended == OPEN]
        self.prompt_tokens = self.emitted = 0


def read_journal(path: str | os.PathLike[str]) -> list[OracleRecord]:
    """The records of a journal file as they last stood, in order of arrival."""
    return latest(Path(path).read_bytes().splitlines())


def latest(lines: Iterable[bytes]) -> list[OracleRecord]:
    """Merge journal lines: the last line of each request wins, a torn line is skipped."""
    decode = msgspec.json.Decoder(OracleRecord).decode
    found: dict[int, OracleRecord] = {}
    for line in lines:
        try:
            record = decode(line)
        except msgspec.DecodeError:
            continue
        found[record.seq] = record
    return [found[seq] for seq in sorted(found)]
