"""Posts kept segments once more, for instance after PostgreSQL was restored from a backup.

Whatever is in the ledger already stays as it is, so replaying too much is harmless. Living workers' open requests are
left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.spool.books import Books, Posting
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


async def replay(root: Path, books: Books) -> Replayed:
    """Post everything that the spools under `root` still hold; raises Away or Refused."""
    done = Replayed()
    await books.make_partitions()
    readers: list[SpoolReader] = []
    try:
        for folder in sorted(spool_folders(root)):
            done.spools += 1
            reader = SpoolReader(folder, Quarantine(root))
            readers.append(reader)
            while not reader.at_end:
                await _post(books, reader.read(BATCH), done)
                reader.unmatched.clear()
        # What one worker left open another may have gone on with: that comes first.
        dead = [reader for reader in readers if reader.owner_is_dead()]
        running = {each for reader in readers if reader not in dead for each in reader.open}
        for reader in dead:
            left = [each for each in reader.orphans() if each.request.request_id not in running]
            await _post(books, left, done)
    finally:
        for reader in readers:
            reader.close()
    return done


async def _post(books: Books, postings: list[Posting], done: Replayed) -> None:
    if postings:
        done.requests += len(postings)
        done.posted += len(await books.post(postings, []))
