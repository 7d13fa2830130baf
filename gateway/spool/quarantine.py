"""Where records go that the ledger refuses, and bytes that are no record: kept, named in the log, in nobody's way."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from gateway.spool.books import Place
from gateway.spool.records import Record, frame
from gateway.spool.segments import SUFFIX, Header, header_bytes

logger = logging.getLogger(__name__)

FOLDER = "quarantine"


class Quarantine:
    """A folder beside the spools; `count` is how many were put there in this process's life."""

    def __init__(self, root: Path) -> None:
        self.folder = root / FOLDER
        self.count = 0

    def records(self, spool_id: UUID, place: Place, records: Sequence[Record], reason: str) -> None:
        """Keep a request's records as a segment that `weighbridge spool replay` can read."""
        head = header_bytes(Header(spool_id.bytes, place.segment, time.time_ns() // 1_000_000))
        self._keep(spool_id, place, SUFFIX, head + b"".join(frame(each) for each in records), reason)

    def damaged(self, spool_id: UUID, place: Place, data: bytes, reason: str) -> None:
        """Keep bytes that could not be read as records."""
        self._keep(spool_id, place, ".bytes", data, reason)

    def _keep(self, spool_id: UUID, place: Place, suffix: str, data: bytes, reason: str) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        stem = f"{spool_id}-{place.segment:08d}-{place.offset}"
        (self.folder / f"{stem}{suffix}").write_bytes(data)
        note = {"spool": str(spool_id), "segment": place.segment, "offset": place.offset, "reason": reason}
        (self.folder / f"{stem}.json").write_text(json.dumps(note) + "\n")
        self.count += 1
        logger.critical(
            "spool %s: %d bytes at %d:%d went to %s: %s",
            spool_id,
            len(data),
            place.segment,
            place.offset,
            self.folder,
            reason,
        )
