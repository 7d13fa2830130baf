"""Usage as files, a folder a day: `usage_date=2026-11-25/part-0001.parquet`, as engines that read partitions expect it.

A day is written once the books are complete to its end, whole or not at all: its folder is made beside and renamed.
What is there stays, unless the ledger has more of that day by now than was written.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

import asyncpg

from gateway.reports.parquet import ParquetFile
from gateway.reports.reading import Column, auditor, in_parts
from gateway.reports.writing import write_csv

Form = Literal["parquet", "csv"]
PART_ROWS = 250_000
"""Rows of one file: what is held in memory at a time."""
DAY_SECONDS = 1_800.0
MANIFEST = "_manifest.json"
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a day's folder holds, to be compared with the ledger."""

    rows: int
    cost_nano_usd: int
    complete_until: str
    """How far the books were complete when it was written."""


@dataclass(frozen=True, slots=True)
class Written:
    """A day that was written."""

    day: date
    rows: int
    again: bool
    """Whether it was there before, with less than the ledger has."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Where the export ended: days from here on are not complete in the books."""

    day: date
    complete_until: datetime
    holds: str
    """What the books wait for."""


class Part(Protocol):
    """A file that takes rows."""

    def add(self, rows: Sequence[Sequence[Any]]) -> None:
        """Take rows."""
        ...

    def write(self, path: Path) -> None:
        """Write what was taken."""
        ...


async def export(
    url: str, folder: Path, *, since: datetime | None, until: datetime, form: Form, part_rows: int = PART_ROWS
) -> AsyncGenerator[Written | Unfinished]:
    """Write every day from `since` (the ledger's first, if None) that ends by `until` and is not there; tells each."""
    sums = await _sums(url)
    first = min(sums, default=None) if since is None else since.date()
    if first is None:
        return
    day = first
    while _start(day) + _DAY <= until:
        known = _known(folder, day)
        if known is None or (known.rows, known.cost_nano_usd) != sums.get(day, (0, 0)):
            found = await _day(url, folder, day, form, part_rows, again=known is not None)
            yield found
            if isinstance(found, Unfinished):
                return
        day += _DAY


def folder_of(folder: Path, day: date) -> Path:
    """Where a day's files are."""
    return folder / f"usage_date={day.isoformat()}"


async def _sums(url: str) -> dict[date, tuple[int, int]]:
    """Requests and cost of each day, from the roll-up, which changes with the rows."""
    async with auditor(url) as connection:
        rows = await connection.fetch(
            "SELECT usage_date, sum(requests)::bigint, sum(cost_nano_usd) FROM billing.daily_usage GROUP BY usage_date"
        )
    return {row[0]: (row[1], int(row[2])) for row in rows}


def _known(folder: Path, day: date) -> Manifest | None:
    try:
        return Manifest(**json.loads((folder_of(folder, day) / MANIFEST).read_text()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError):
        # Not ours, or damaged: written anew.
        return Manifest(-1, -1, "")


async def _day(
    url: str, folder: Path, day: date, form: Form, part_rows: int, *, again: bool
) -> Written | Unfinished:
    beside = folder / f".usage_date={day.isoformat()}.{os.getpid()}"
    try:
        # Watermark and rows are of one moment.
        async with auditor(url, DAY_SECONDS) as connection:
            waits = await _waits(connection, day)
            if isinstance(waits, Unfinished):
                return waits
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            rows, cost = await _write(connection, beside, day, form, part_rows)
        manifest = Manifest(rows, cost, waits.isoformat())
        (beside / MANIFEST).write_text(json.dumps(asdict(manifest)) + "\n")
        await asyncio.to_thread(_into_place, beside, folder_of(folder, day))
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Written(day, rows, again)


async def _waits(connection: asyncpg.Connection, day: date) -> Unfinished | datetime:
    row = await connection.fetchrow("SELECT * FROM billing.watermark")
    assert row is not None
    if row["complete_until"] >= _start(day) + _DAY:
        return row["complete_until"]
    holds = f"spool {row['oldest_spool']} of {row['oldest_host']}" if row["open_spools"] else "the day to end"
    return Unfinished(day, row["complete_until"], holds)


async def _write(
    connection: asyncpg.Connection, into: Path, day: date, form: Form, part_rows: int
) -> tuple[int, int]:
    """The day's rows in files of some size each; how many rows, and their cost."""
    prepared = await connection.prepare("SELECT * FROM serving.endpoint_usage")
    # The day is in the folder's name; a column of the same name would stand against it.
    chosen = ", ".join(each.name for each in prepared.get_attributes() if each.name != "usage_date")
    statement = (
        f"SELECT {chosen} FROM serving.endpoint_usage WHERE request_time >= $1 AND request_time < $2"  # noqa: S608 - the view's own
        " ORDER BY request_time, databricks_request_id"
    )
    rows = cost = parts = in_part = 0
    part: Part | None = None
    async for columns, some in in_parts(connection, statement, _start(day), _start(day) + _DAY):
        place = [column.name for column in columns].index("cost_nano_usd")
        if part is None or in_part >= part_rows:
            if part is not None:
                await asyncio.to_thread(part.write, into / f"part-{parts:04}.{form}")
            part, parts, in_part = _part(form, columns), parts + 1, 0
        await asyncio.to_thread(part.add, some)
        in_part += len(some)
        rows += len(some)
        cost += sum(int(row[place]) for row in some)
    assert part is not None
    await asyncio.to_thread(part.write, into / f"part-{parts:04}.{form}")
    return rows, cost


def _part(form: Form, columns: Sequence[Column]) -> Part:
    return ParquetFile(columns) if form == "parquet" else _CsvFile(columns)


class _CsvFile:
    """Rows gathered for one CSV file."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._rows: list[Sequence[Any]] = []

    def add(self, rows: Sequence[Sequence[Any]]) -> None:
        """Take rows."""
        self._rows.extend(rows)

    def write(self, path: Path) -> None:
        """Write what was taken."""
        with path.open("w", encoding="utf-8", newline="") as file:
            write_csv(file, self._columns, self._rows)


def _into_place(beside: Path, place: Path, sync: Callable[[int], None] = os.fsync) -> None:
    """Rename the finished folder; a crash in between leaves the day to the next run, never half of it."""
    for each in (*beside.iterdir(), beside):
        descriptor = os.open(each, os.O_RDONLY)
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)
    old = beside.with_name(f"{beside.name}.old")
    if place.exists():
        place.rename(old)
    beside.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _start(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


__all__ = [
    "DAY_SECONDS",
    "MANIFEST",
    "PART_ROWS",
    "Form",
    "Manifest",
    "Unfinished",
    "Written",
    "export",
    "folder_of",
]
