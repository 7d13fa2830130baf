"""`weighbridge report`: a named report on the books, read as the auditor, drawn or written in a format for machines."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import asyncpg

from gateway.cli.reach import CannotReach, role_url
from gateway.reports.catalogue import Report, report_named, reports
from gateway.reports.drawing import draw
from gateway.reports.parquet import ParquetFile
from gateway.reports.period import period
from gateway.reports.reading import AUDITOR, REPORT_SECONDS, Answer, ask, auditor
from gateway.reports.writing import write_csv, write_json
from gateway.settings import Settings

Format = Literal["table", "csv", "json", "parquet"]


async def report(
    settings: Settings,
    name: str,
    *,
    since: str | None,
    until: str | None,
    group: str | None,
    form: Format,
    output: Path | None,
) -> None:
    """Run and show it; raises UnknownReport, BadPeriod, NoParquet or CannotReach."""
    chosen = report_named(name)
    values = _values(chosen, since, until, group)
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise CannotReach("Parquet is no text: name a file with --output, or send it through a pipe.")
    with let_in():
        async with auditor(role_url(settings, AUDITOR)) as connection:
            answer = await ask(connection, chosen.statement, *values)
    if output is None:
        _show(chosen, answer, form)
    else:
        _write(chosen, answer, form, output)


@contextmanager
def let_in() -> Generator[None]:
    """Say in a sentence what keeps an auditor from reading."""
    try:
        yield
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidPasswordError) as error:
        raise CannotReach(
            f"The database does not let {AUDITOR} in ({error}); give that role a password, and tell it in PGPASSWORD or"
            " in a password file."
        ) from error
    except asyncpg.QueryCanceledError as error:
        raise CannotReach(f"It took longer than {REPORT_SECONDS:.0f} s; ask for a shorter period.") from error


def listed() -> str:
    """What reports there are."""
    known = reports()
    width = max(len(name) for name in known)
    return "\n".join(f"{name:<{width}}  {each.title}{_takes(each)}" for name, each in known.items())


def _values(chosen: Report, since: str | None, until: str | None, group: str | None) -> list[Any]:
    for name, given in (("from", since), ("to", until), ("group", group)):
        if given is not None and name not in chosen.parameters:
            raise CannotReach(f"The report {chosen.name} takes no --{name}.")
    span = period(since, until, now=datetime.now(UTC), span_days=chosen.span_days, grain=chosen.grain)
    known = {"from": span.start, "to": span.end, "group": group}
    return [known[name] for name in chosen.parameters]


def _show(chosen: Report, answer: Answer, form: Format) -> None:
    if form == "table":
        draw(answer, chosen.title, chosen.bar, sys.stdout)
    elif form == "parquet":
        made = _parquet(answer)
        # The library writes to files only; a pipe gets the file's bytes.
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "report.parquet"
            made.write(path)
            sys.stdout.buffer.write(path.read_bytes())
    else:
        _text(answer, form, sys.stdout)


def _write(chosen: Report, answer: Answer, form: Format, output: Path) -> None:
    """To a file beside, then renamed: whoever looks finds all of it or what was there before."""
    beside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        if form == "parquet":
            _parquet(answer).write(beside)
        else:
            with beside.open("w", encoding="utf-8", newline="") as file:
                if form == "table":
                    draw(answer, chosen.title, chosen.bar, file)
                else:
                    _text(answer, form, file)
        beside.replace(output)
    except OSError as error:
        raise CannotReach(f"{output} cannot be written: {error.strerror}.") from error
    finally:
        beside.unlink(missing_ok=True)


def _text(answer: Answer, form: Format, file: Any) -> None:
    write = write_csv if form == "csv" else write_json
    waiting = io.StringIO()
    write(waiting, answer.columns, answer.rows)
    file.write(waiting.getvalue())


def _parquet(answer: Answer) -> ParquetFile:
    made = ParquetFile(answer.columns)
    made.add(answer.rows)
    return made


def _takes(each: Report) -> str:
    missing = [f"--{name}" for name in ("from", "to", "group") if name not in each.parameters]
    return f"  (without {', '.join(missing)})" if missing else ""
