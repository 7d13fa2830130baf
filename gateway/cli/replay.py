"""`weighbridge replay`: a policy tried on a past period, straight from the books; nothing is changed and nobody waits."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from gateway.cli.declarations import read_file
from gateway.cli.reach import database_url
from gateway.declarative.apply import Declaration
from gateway.replay.proposing import proposed
from gateway.replay.reading import Books
from gateway.replay.run import Result, replay
from gateway.replay.telling import FORMATS, lines_of
from gateway.reports.period import period
from gateway.security.sealing import Sealing
from gateway.security.secrets import Purpose, load_master_key
from gateway.settings import Settings
from gateway.store import database
from gateway.store.changes import Configuration
from policies.catalog import Snapshot

_SECONDS = 3600.0


async def run(
    settings: Settings, policy: Path | None, *, prune: bool, since: str | None, until: str | None, form: str
) -> int:
    """Replay and print; 1 where the present policy does not reproduce what was decided."""
    chosen = period(since, until, now=datetime.now(UTC), span_days=7)
    url = database_url(settings, "weighbridge_app")
    engine = database.engine(url, application_name="weighbridge-replay", size=0, statement_seconds=_SECONDS)
    connection = await database.connect(
        url, application_name="weighbridge-replay", statement_seconds=_SECONDS
    )
    try:
        wanted = None if policy is None else await _proposed(settings, engine, policy, prune)
        books = Books(connection)
        await books.open()
        async with engine.connect() as history:
            result = await replay(books, history, chosen, wanted, _progress)
        _clear()
        lines = lines_of(result, wanted)
        FORMATS[form](result, lines, sys.stdout)
        return _status(result)
    finally:
        await connection.close(timeout=2)
        await engine.dispose()


async def _proposed(settings: Settings, engine: database.AsyncEngine, path: Path, prune: bool) -> Snapshot:
    master = load_master_key(settings.secret_file)
    found = read_file(path)
    return await proposed(
        Configuration(engine, master.derive(Purpose.AUDIT_CHAIN)),
        Sealing(master.derive_all(Purpose.CREDENTIALS)),
        Declaration(
            found["file"],
            found["document"],
            prune,
            found["sha256"],
            settings.webhook_hosts,
            settings.provider_hosts,
        ),
    )


def _status(result: Result) -> int:
    return 1 if not result.proposed and result.differing else 0


def _progress(calls: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{calls:,} calls", nl=False, err=True)


def _clear() -> None:
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)
