"""Named reports say what the ledger says, in every format exactly, and answer what they cannot read with a sentence."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gateway.cli.reach import CannotReach
from gateway.cli.report import let_in, listed, report
from gateway.reports.catalogue import UnknownReport, report_named, reports
from gateway.reports.drawing import BAR_CELLS, bar_of, draw
from gateway.reports.parquet import ParquetFile
from gateway.reports.period import BadPeriod, Period, period
from gateway.reports.reading import Answer, Column, ask, auditor
from gateway.reports.writing import write_csv, write_json
from gateway.settings import Settings
from tests.auditor.posting import ended, post

NOW = datetime(2026, 11, 25, 13, 45, tzinfo=UTC)


class Terminal(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def posted(database_url: str) -> str:
    made = post(
        database_url,
        ended("2026-11-23T23:59:59.999", cost=3, principal_name="alice"),
        ended("2026-11-24T00:00:00", cost=1_000_000_001, group_id="g_1"),
        ended("2026-11-24T12:00:00", cost=10, principal_id="u_2", tags={"team": "=cmd()"}),
        ended("2026-11-25T01:00:00", cost=5, end={"status": "cut", "stopped_by": "limit"}),
    )
    asyncio.run(made)
    return database_url


@pytest.fixture
def settings(posted: str) -> Settings:
    return Settings.from_env({"WEIGHBRIDGE_DATABASE_URL": posted})


async def told(
    settings: Settings, name: str, capsys: pytest.CaptureFixture[str], **given: Any
) -> list[dict[str, Any]]:
    values = {"since": None, "until": None, "group": None, "output": None, **given}
    await report(settings, name, form="json", **values)
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", sorted(reports()))
async def test_every_report_runs_as_the_auditor(name: str, posted: str, auditor_url: str) -> None:
    chosen = report_named(name)
    values = {
        "from": datetime(2026, 11, 1, tzinfo=UTC),
        "to": datetime(2026, 11, 26, tzinfo=UTC),
        "group": None,
    }
    async with auditor(auditor_url) as connection:
        answer = await ask(connection, chosen.statement, *(values[each] for each in chosen.parameters))
    assert answer.columns
    assert chosen.bar is None or chosen.bar in {column.name for column in answer.columns}
    assert chosen.title and name in listed()


async def test_days_are_those_of_utc_and_money_is_exact(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = await told(settings, "usage-by-day", capsys, since="2026-11-01", until="2026-11-30")
    assert [(row["usage_date"], row["requests"], row["cost_nano_usd"], row["cost_usd"]) for row in rows] == [
        ("2026-11-23", 1, 3, "0.000000003"),
        ("2026-11-24", 2, 1_000_000_011, "1.000000011"),
        ("2026-11-25", 1, 5, "0.000000005"),
    ]
    hours = await told(
        settings, "usage-by-hour", capsys, since="2026-11-24T12:00Z", until="2026-11-24T13:00Z"
    )
    assert [(row["usage_start_time"], row["cost_nano_usd"]) for row in hours] == [
        ("2026-11-24T12:00:00Z", 10)
    ]


async def test_a_group_narrows_a_report_to_what_it_was_charged(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = await told(settings, "group-costs", capsys, since="2026-11", until="2026-11")
    assert {row["charged_group"]: row["cost_nano_usd"] for row in rows} == {
        "g_1": 1_000_000_001,
        "(no group)": 18,
    }
    [only] = await told(settings, "group-costs", capsys, since="2026-11", until="2026-11", group="g_1")
    assert only["charged_group"] == "g_1"
    hits = await told(settings, "limit-hits", capsys, since="2026-11-01", until="2026-11-30")
    assert [(row["kind"], row["hits"]) for row in hits] == [("stopped", 1)]


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("usage-by-dya", {}, "Did you mean 'usage-by-day'"),
        ("../../etc/passwd", {}, "There is no report"),
        ("usage-by-day", {"since": "yesterday"}, "--from 'yesterday' is no moment"),
        ("usage-by-day", {"until": "2026-02-30"}, "--to '2026-02-30' is no moment"),
        ("usage-by-day", {"since": "2026-13"}, "is no moment"),
        ("usage-by-day", {"since": "9999-12-31", "until": "9999-12"}, "is no moment"),
        ("usage-by-day", {"since": "2026-11-24T10:00Z"}, "sums whole days"),
        ("usage-by-day", {"since": "2026-11-24", "until": "2026-11-20"}, "before it begins"),
        ("who-can-query", {"since": "2026-11-24"}, "takes no --from"),
        ("refusals", {"group": "g"}, "takes no --group"),
    ],
)
async def test_what_cannot_be_read_is_answered_with_a_sentence(
    settings: Settings, name: str, given: dict[str, str], said: str
) -> None:
    values: dict[str, Any] = {"since": None, "until": None, "group": None, "output": None, **given}
    with pytest.raises((UnknownReport, BadPeriod, CannotReach), match=said):
        await report(settings, name, form="table", **values)


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("since", "until", "grain", "wanted"),
    [
        (None, None, "moment", Period(utc(2026, 11, 18, 13, 45), NOW)),
        (None, None, "day", Period(utc(2026, 11, 19), utc(2026, 11, 26))),
        (None, None, "hour", Period(utc(2026, 11, 18, 14), utc(2026, 11, 25, 14))),
        ("2026-11", "2026-11", "day", Period(utc(2026, 11, 1), utc(2026, 12, 1))),
        ("2026-11-03", "2026-11-03", "day", Period(utc(2026, 11, 3), utc(2026, 11, 4))),
        ("2026-11-03", None, "day", Period(utc(2026, 11, 3), utc(2026, 11, 26))),
        (None, "2026-11-03", "day", Period(utc(2026, 10, 28), utc(2026, 11, 4))),
        ("2026-11-03T01:00+01:00", "2026-11-04T00:00Z", "day", Period(utc(2026, 11, 3), utc(2026, 11, 4))),
        ("2024-02-29", "2024-02", "day", Period(utc(2024, 2, 29), utc(2024, 3, 1))),
    ],
)
def test_periods_are_read_in_utc_with_dates_as_ends_included(
    since: str | None, until: str | None, grain: Any, wanted: Period
) -> None:
    assert period(since, until, now=NOW, span_days=7, grain=grain) == wanted


ODD = Answer(
    (
        Column("name", "text"), Column("n", "int8"), Column("cost_nano_usd", "numeric"), Column("cost_usd", "numeric"),
        Column("at", "timestamptz"), Column("day", "date"), Column("ok", "bool"), Column("tags", "jsonb"),
    ),
    [
        ("=1+2", 3, Decimal(10**22 + 1), Decimal("10000000000000.000000001"), NOW, date(2026, 11, 25), True, '{"a":"b"}'),
        ("\x1b[2J-x", -3, Decimal(-7), Decimal("-0.000000007"), None, None, None, None),
        ("-a,\n\"b\"", 0, None, None, datetime(1969, 12, 31, 23, 59, 59, 999999, UTC), date(1969, 12, 31), False, "[]"),
    ],
)  # fmt: skip


def test_csv_holds_every_value_and_no_formula() -> None:
    file = io.StringIO()
    write_csv(file, ODD.columns, ODD.rows)
    head, *rows = list(csv.reader(io.StringIO(file.getvalue())))
    assert head[:2] == ["name", "n"]
    assert [row[0] for row in rows] == ["'=1+2", "\x1b[2J-x", '\'-a,\n"b"']
    assert rows[0][1:] == [
        "3", "10000000000000000000001", "10000000000000.000000001", "2026-11-25T13:45:00Z", "2026-11-25", "true", '{"a":"b"}',
    ]  # fmt: skip
    assert rows[1][1:] == ["-3", "-7", "-0.000000007", "", "", "", ""]


def test_json_holds_money_as_whole_numbers_and_exact_text() -> None:
    file = io.StringIO()
    write_json(file, ODD.columns, ODD.rows)
    first = json.loads(file.getvalue())[0]
    assert first["cost_nano_usd"] == 10**22 + 1
    assert first["cost_usd"] == "10000000000000.000000001"
    assert first["tags"] == {"a": "b"}
    empty = io.StringIO()
    write_json(empty, ODD.columns, [])
    assert json.loads(empty.getvalue()) == []


def test_parquet_reads_back_as_it_was(tmp_path: Path) -> None:
    from arro3.io import read_parquet

    made = ParquetFile(ODD.columns, {"kept": "too"})
    made.add(ODD.rows)
    made.add(ODD.rows[:1])
    made.write(tmp_path / "x.parquet")
    table = read_parquet(tmp_path / "x.parquet").read_all()
    assert table.num_rows == 4
    back = [[value.as_py() for value in table.column(column.name)] for column in ODD.columns]
    assert list(zip(*back, strict=True)) == [*ODD.rows, ODD.rows[0]]


def test_a_terminal_gets_bars_and_what_is_no_terminal_gets_none() -> None:
    screen, colourless, pipe = Terminal(), Terminal(), io.StringIO()
    draw(ODD, "Odd things", "n", screen, {"TERM": "xterm", "COLUMNS": "200"})
    draw(ODD, "Odd things", "n", colourless, {"NO_COLOR": "1", "COLUMNS": "200"})
    draw(ODD, "Odd things", "n", pipe, {})
    assert "█" * BAR_CELLS in screen.getvalue() and "3 rows" in screen.getvalue()
    assert "\x1b[36m" not in colourless.getvalue() and "█" * BAR_CELLS in colourless.getvalue()
    assert "\x1b" not in pipe.getvalue() and "█" not in pipe.getvalue()
    for shown in (screen, colourless, pipe):
        assert "\x1b[2J" not in shown.getvalue()
        assert "cost_nano_usd" not in shown.getvalue() and "cost nano usd" not in shown.getvalue()
    assert pipe.getvalue().splitlines()[0].split() == ["name", "n", "cost_usd", "at", "day", "ok", "tags"]


def test_a_narrow_terminal_keeps_names_and_numbers_and_gives_up_the_bars(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wide = Answer(
        (Column("endpoint", "text"), *(Column(f"a_rather_long_number_{each}", "int8") for each in range(4))),
        [("databricks-mixtral", 1_234_567, 2, 3, 4)],
    )
    monkeypatch.setenv("COLUMNS", "70")
    screen = Terminal()
    draw(wide, "Wide", "a_rather_long_number_0", screen)
    assert "█" not in screen.getvalue()
    assert "databricks" in screen.getvalue() and "1,234,567" in screen.getvalue()


def test_bars_grow_with_their_share_and_show_whatever_is_more_than_nothing() -> None:
    assert bar_of(0) == "" and bar_of(1) == "█" * BAR_CELLS and bar_of(0.5) == "█" * (BAR_CELLS // 2)
    assert bar_of(0.0001) == "▏" and bar_of(0.0001, blocks=False) == "#"
    lengths = [len(bar_of(share / 100)) for share in range(101)]
    assert lengths == sorted(lengths)


async def test_a_file_is_written_whole_and_parquet_is_not_sent_to_a_screen(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"since": "2026-11", "until": "2026-11", "group": None}
    for form in ("table", "csv", "json", "parquet"):
        await report(settings, "usage-by-day", form=form, output=tmp_path / form, **given)  # type: ignore[arg-type]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["csv", "json", "parquet", "table"]
    assert len(json.loads((tmp_path / "json").read_text())) == 3
    with pytest.raises(CannotReach, match="cannot be written"):
        await report(settings, "usage-by-day", form="csv", output=tmp_path / "no" / "such", **given)
    monkeypatch.setattr("sys.stdout", Terminal())
    with pytest.raises(CannotReach, match="--output"):
        await report(settings, "usage-by-day", form="parquet", output=None, **given)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (asyncpg.InvalidPasswordError("no"), "PGPASSWORD"),
        (asyncpg.InvalidAuthorizationSpecificationError("no"), "does not let weighbridge_auditor in"),
        (asyncpg.QueryCanceledError("late"), "ask for a shorter period"),
    ],
)
def test_what_keeps_an_auditor_from_reading_is_said_with_the_remedy(error: Exception, said: str) -> None:
    with pytest.raises(CannotReach, match=said), let_in():
        raise error
