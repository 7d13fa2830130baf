"""Posts kept segments once more, for instance after PostgreSQL was restored from a backup.

Whatever is in the ledger already stays as it is, so replaying too much is harmless. Living workers' open requests are
left alone. What the ledger refuses, a record of a week that was dropped for instance, goes to quarantine alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.spool.books import Books, Posting, Refused
from gateway.spool.quarantine import Quarantine
from gateway.spool.reader import SpoolReader
from gateway.spool.retention import spool_folders

BATCH = 500


@dataclass(slots=True)
class Replayed:
    """What a replay did."""

    spools: int = 0
    requests: int = 0
    """Read from the segments."""
    posted: int = 0
    """Of these, new to the ledger."""
    refused: int = 0
    """Of these, refused by the ledger and kept in quarantine."""


async def replay(root: Path, books: Books) -> Replayed:
    """Post everything that the spools under `root` still hold; raises Away."""
    done = Replayed()
    await books.make_partitions()
    quarantine = Quarantine(root)
    readers: list[SpoolReader] = []
    try:
        for folder in sorted(spool_folders(root)):
            done.spools += 1
            reader = SpoolReader(folder, quarantine)
            readers.append(reader)
            while not reader.at_end:
                await _post(books, quarantine, reader, reader.read(BATCH), done)
                reader.unmatched.clear()
        # What one worker left open another may have gone on with: that comes first.
        dead = [reader for reader in readers if reader.owner_is_dead()]
        running = {each for reader in readers if reader not in dead for each in reader.open}
        for reader in dead:
            left = [each for each in reader.orphans() if each.request.request_id not in running]
            await _post(books, quarantine, reader, left, done)
    finally:
        for reader in readers:
            reader.close()
    return done


async def _post(
    books: Books, quarantine: Quarantine, reader: SpoolReader, postings: Sequence[Posting], done: Replayed
) -> None:
    """Post rows by halves until what is refused stands alone."""
    if not postings:
        return
    try:
        done.posted += len(await books.post(postings, []))
    except Refused as exc:
        if len(postings) > 1:
            middle = len(postings) // 2
            await _post(books, quarantine, reader, postings[:middle], done)
            await _post(books, quarantine, reader, postings[middle:], done)
            return
        quarantine.records(
            reader.spool_id, postings[0].place, postings[0].records, f"refused in a replay: {exc}"
        )
        done.refused += 1
    done.requests += len(postings)
