"""`weighbridge`: every command, put together."""

from __future__ import annotations

import click

from gateway import __version__
from gateway.commands.ai_query import ai_query
from gateway.commands.books import audit, verify
from gateway.commands.credits import credits
from gateway.commands.database import migrate, seed, spool, sql
from gateway.commands.declarations import apply, diff, export
from gateway.commands.engine import engine
from gateway.commands.keys import keys
from gateway.commands.machine import doctor, drain, embedder, logs, serve, sql_calls, status, stop, up, worker
from gateway.commands.replay import replay
from gateway.commands.reports import explain, export_usage, report

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="weighbridge")
def main() -> None:
    """A governance gateway for language-model endpoints.

    `weighbridge up` starts everything on this machine. Settings come from the environment (WEIGHBRIDGE_HOME, _PORT,
    _DATABASE_URL, ...); the README lists them.
    """


for each in (
    up,
    serve,
    status,
    stop,
    logs,
    doctor,
    worker,
    drain,
    sql_calls,
    migrate,
    seed,
    sql,
    spool,
    engine,
    embedder,
    keys,
    credits,
    diff,
    apply,
    export,
    explain,
    report,
    export_usage,
    replay,
    ai_query,
    verify,
    audit,
):
    main.add_command(each)


if __name__ == "__main__":
    main()
