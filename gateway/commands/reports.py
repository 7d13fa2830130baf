"""What the books say: named reports, usage as files, and why a call was admitted or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import click

from gateway.commands.sentences import ADMIN_KEY, guarded, settings, told


@click.command()
@click.option(
    "--principal", metavar="NAME", help="Who calls, by name or id (default: the key's own principal)."
)
@click.option("--endpoint", metavar="NAME", help="What is called, by name, alias or id.")
@click.option(
    "--at", metavar="TIME", help="A moment that has passed, such as 2027-01-31T12:00:00Z (default: now)."
)
@click.option("--key", metavar="ID", help="The API key that the call comes with, by id.")
@click.option("--group", metavar="NAME", help="The group that the call asks to charge.")
@click.option(
    "--request", metavar="ID", help="A request that was made: what decided it, and what it was charged."
)
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@ADMIN_KEY
def explain(
    principal: str | None,
    endpoint: str | None,
    at: str | None,
    key: str | None,
    group: str | None,
    request: str | None,
    as_json: bool,
    admin_key: Path | None,
) -> None:
    """Why a call is admitted or refused: identity, permission, limits, budgets, price and routing, in words.

    With --at it is the configuration of that moment that answers; with --request the one that decided the request.
    """
    from gateway.cli.explain import explained
    from gateway.cli.reach import AdminApi

    chosen = settings()
    click.echo(
        guarded(
            lambda: explained(
                AdminApi(chosen, admin_key),
                principal=principal,
                endpoint=endpoint,
                at=at,
                key=key,
                group=group,
                request=request,
                as_json=as_json,
            )
        )
    )


@click.command()
@click.argument("name", required=False)
@click.option("--list", "listing", is_flag=True, help="Show what reports there are.")
@click.option(
    "--from", "since", metavar="TIME", help="A date, a month or a moment, UTC (default: by report)."
)
@click.option("--to", "until", metavar="TIME", help="The same; a date or month is included (default: now).")
@click.option("--group", metavar="NAME", help="Only what this group was charged, by name or id.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json", "parquet"]),
    default="table",
    help="How to write it (default: a table).",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write to this file, whole or not at all.",
)
def report(
    name: str | None,
    listing: bool,
    since: str | None,
    until: str | None,
    group: str | None,
    form: str,
    output: Path | None,
) -> None:
    """Show the report NAME on the books, read as the auditor, who sees no secret and no prompt.

    Tables leave out the columns in nano-dollars; the other formats have all of them.
    """
    from gateway.cli.report import listed
    from gateway.cli.report import report as run

    if listing or name is None:
        click.echo(guarded(listed))
        return
    chosen = settings()
    told(
        lambda: run(
            chosen, name, since=since, until=until, group=group, form=cast("Any", form), output=output
        )
    )


@click.command("export-usage")
@click.option(
    "--by-day",
    "folder",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the days' folders go; those that are there stay.",
)
@click.option("--from", "since", metavar="DAY", help="The first day, UTC (default: the ledger's first).")
@click.option("--to", "until", metavar="DAY", help="The last day (default: the last that is closed).")
@click.option("--format", "form", type=click.Choice(["parquet", "csv"]), default="parquet", help="(parquet)")
def export_usage(folder: Path, since: str | None, until: str | None, form: str) -> None:
    """Write usage as files, a folder a day, once the books are complete to its end. It may be run as often as you like."""
    from gateway.cli.usage_files import export_usage as run

    chosen = settings()
    told(lambda: run(chosen, folder, since=since, until=until, form=cast("Any", form)))
