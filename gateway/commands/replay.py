"""Try a policy on what has happened."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gateway.commands.sentences import settings, told


@click.command()
@click.option(
    "--policy",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A file as `weighbridge apply` takes it; left out: the policy of each moment.",
)
@click.option("--prune", is_flag=True, help="As of `apply`: what the file no longer has is taken as deleted.")
@click.option(
    "--from", "since", metavar="WHEN", help="A date, a month or a moment (default: 7 days before the end)."
)
@click.option("--to", "until", metavar="WHEN", help="The end; a date or a month is included (default: now).")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    help="What it comes to, for people (default), or every call that is decided differently.",
)
def replay(policy: Path | None, prune: bool, since: str | None, until: str | None, form: str) -> None:
    """Decide a past period again: who would have been refused or throttled under a proposed policy, and what it saves.

    The policy is the present configuration with the file applied to it, taken to hold from the beginning of the period;
    nothing is changed. Without a file every decision is made again under the configuration that made it, and the status
    is 1 where one comes out differently.
    """
    from gateway.cli.replay import run

    chosen = settings()
    sys.exit(told(lambda: run(chosen, policy, prune=prune, since=since, until=until, form=form)))
