"""`weighbridge export-usage`: usage as files, a folder a day, as far as the books are complete."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from gateway.cli.reach import CannotReach, role_url
from gateway.cli.report import let_in
from gateway.reports.daily import Form, Unfinished, export
from gateway.reports.period import period
from gateway.reports.reading import AUDITOR
from gateway.settings import Settings


async def export_usage(
    settings: Settings, folder: Path, *, since: str | None, until: str | None, form: Form
) -> None:
    """Write what is closed and missing, and say what each day came to; raises BadPeriod, NoParquet or CannotReach."""
    span = period(since, until, now=datetime.now(UTC), span_days=1, grain="day")
    written = 0
    try:
        with let_in():
            async for each in export(
                role_url(settings, AUDITOR),
                folder,
                since=None if since is None else span.start,
                until=span.end,
                form=form,
            ):
                if isinstance(each, Unfinished):
                    click.echo(
                        f"{each.day} is not closed: the books are complete until {each.complete_until:%Y-%m-%d %H:%M:%S} UTC"
                        f" and wait for {each.holds}. Run this again later."
                    )
                else:
                    written += 1
                    click.echo(
                        f"{each.day}  {each.rows:,} rows{'  (again: the ledger has more)' if each.again else ''}"
                    )
    except OSError as error:
        raise CannotReach(f"{folder} cannot be written: {error.strerror or error}.") from error
    if not written:
        click.echo("Nothing new to write.")
