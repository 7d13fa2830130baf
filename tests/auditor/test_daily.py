"""Usage as files: every closed day once and whole, none before the books are complete, and more where the ledger has more."""

from __future__ import annotations

import asyncio
import csv
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import pytest

from gateway.reports import daily
from gateway.reports.daily import MANIFEST, Unfinished, Written, export, folder_of
from tests.auditor.posting import ended, ms, post

if TYPE_CHECKING:
    from gateway.embedded.postgres import EmbeddedPostgres

UNTIL = datetime(2026, 11, 26, tzinfo=UTC)
SPOOL = uuid4()


@pytest.fixture(scope="module")
def filled(database_url: str) -> str:
    asyncio.run(
        post(
            database_url,
            ended("2026-11-22T23:59:59.999", cost=3),
            *(
                ended(f"2026-11-24T00:00:0{number}", cost=10 + number, tags={"a": "=b"})
                for number in range(5)
            ),
            ended("2026-11-25T10:00:00", cost=1),
        )
    )
    return database_url


@pytest.fixture
async def watermark(owner: asyncpg.Connection, filled: str) -> Any:
    async def at(text: str) -> None:
        await owner.execute(
            'INSERT INTO gateway.spool_positions (spool_id, host, segment, "offset", complete_until)'
            " VALUES ($1, 'far', 0, 0, to_timestamp($2 / 1000.0::float8))"
            " ON CONFLICT (spool_id) DO UPDATE SET complete_until = excluded.complete_until",
            SPOOL,
            ms(text),
        )

    return at


async def told(url: str, folder: Path, **given: Any) -> list[Written | Unfinished]:
    values: dict[str, Any] = {"since": None, "until": UNTIL, "form": "parquet", **given}
    return [each async for each in export(url, folder, **values)]


def rows_of(folder: Path, day: date) -> list[dict[str, Any]]:
    from arro3.io import read_parquet

    found: list[dict[str, Any]] = []
    for part in sorted(folder_of(folder, day).glob("part-*.parquet")):
        table = read_parquet(part).read_all()
        names = table.schema.names
        columns = [[value.as_py() for value in table.column(name)] for name in names]
        found += [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    return found


async def test_days_are_written_once_as_far_as_the_books_are_complete(
    auditor_url: str, watermark: Any, tmp_path: Path
) -> None:
    await watermark("2026-11-24T23:59:59.999")
    first = await told(auditor_url, tmp_path)
    assert first[:2] == [Written(date(2026, 11, 22), 1, False), Written(date(2026, 11, 23), 0, False)]
    [unfinished] = first[2:]
    assert isinstance(unfinished, Unfinished) and unfinished.day == date(2026, 11, 24)
    assert f"spool {SPOOL} of far" in unfinished.holds
    await watermark("2026-11-25T00:00:00")
    second = await told(auditor_url, tmp_path)
    assert second[0] == Written(date(2026, 11, 24), 5, False) and isinstance(second[1], Unfinished)
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "usage_date=2026-11-22", "usage_date=2026-11-23", "usage_date=2026-11-24",
    ]  # fmt: skip
    rows = rows_of(tmp_path, date(2026, 11, 24))
    assert [row["cost_nano_usd"] for row in rows] == [10, 11, 12, 13, 14]
    assert rows[0]["cost_usd"] == Decimal("0.000000010")
    assert rows[0]["request_time"] == datetime(2026, 11, 24, tzinfo=UTC)
    assert "usage_date" not in rows[0] and json.loads(rows[0]["usage_context"]) == {"a": "=b"}
    assert rows_of(tmp_path, date(2026, 11, 23)) == []


async def test_a_day_that_the_ledger_has_more_of_is_written_again(
    auditor_url: str, filled: str, watermark: Any, tmp_path: Path
) -> None:
    await watermark("2026-11-26T00:00:00")
    await told(auditor_url, tmp_path)
    assert await told(auditor_url, tmp_path) == []
    await post(filled, ended("2026-11-25T09:00:00", cost=77))
    assert await told(auditor_url, tmp_path) == [Written(date(2026, 11, 25), 2, True)]
    assert [row["cost_nano_usd"] for row in rows_of(tmp_path, date(2026, 11, 25))] == [77, 1]
    (folder_of(tmp_path, date(2026, 11, 22)) / MANIFEST).write_text("torn")
    assert await told(auditor_url, tmp_path) == [Written(date(2026, 11, 22), 1, True)]


async def test_parts_are_bounded_and_csv_runs_nothing(
    auditor_url: str, watermark: Any, tmp_path: Path
) -> None:
    await watermark("2026-11-26T00:00:00")
    day = datetime(2026, 11, 24, tzinfo=UTC)
    whole = await told(
        auditor_url, tmp_path / "csv", since=day, until=datetime(2026, 11, 25, tzinfo=UTC), form="csv"
    )
    assert whole == [Written(date(2026, 11, 24), 5, False)]
    with (folder_of(tmp_path / "csv", day.date()) / "part-0001.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["cost_usd"] for row in rows] == [f"0.0000000{number}" for number in range(10, 15)]


async def test_a_crash_leaves_no_half_of_a_day(
    auditor_url: str, watermark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await watermark("2026-11-26T00:00:00")

    class Broken:
        def __init__(self, *_: Any) -> None: ...
        def add(self, rows: Any) -> None: ...
        def write(self, path: Path) -> None:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(daily, "ParquetFile", Broken)
        with pytest.raises(OSError, match="No space"):
            await told(auditor_url, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(await told(auditor_url, tmp_path)) == 4


async def test_an_empty_ledger_exports_nothing(
    postgres_server: EmbeddedPostgres, migrated_template: str, tmp_path: Path
) -> None:
    await postgres_server.create_database("empty_export", template=migrated_template)
    try:
        assert await told(postgres_server.url("weighbridge_auditor", "empty_export"), tmp_path) == []
    finally:
        await postgres_server.drop_database("empty_export")
