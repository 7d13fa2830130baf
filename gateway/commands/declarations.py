"""A deployment's objects in a file: compare, apply, write."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gateway.commands.sentences import ADMIN_KEY, guarded, settings

FILE = click.option(
    "-f",
    "--file",
    "path",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The YAML file; objects remember its name, without folders.",
)
PRUNE = click.option(
    "--prune", is_flag=True, help="Delete what this file made or took over before, and no longer names."
)


@click.command()
@FILE
@PRUNE
@ADMIN_KEY
def diff(path: Path, prune: bool, admin_key: Path | None) -> None:
    """Show what `apply` would do. Ends with 2 where that makes a difference, with 0 where it does not."""
    from gateway.cli.declarations import diff as run
    from gateway.cli.reach import AdminApi

    chosen = settings()
    sys.exit(guarded(lambda: run(AdminApi(chosen, admin_key), path, prune=prune)))


@click.command()
@FILE
@PRUNE
@click.option("--yes", is_flag=True, help="Do not ask.")
@ADMIN_KEY
def apply(path: Path, prune: bool, yes: bool, admin_key: Path | None) -> None:
    """Make what is there into what a file declares: all of it, or nothing. What it manages is read-only elsewhere."""
    from gateway.cli.declarations import apply as run
    from gateway.cli.reach import AdminApi

    chosen = settings()
    sys.exit(guarded(lambda: run(AdminApi(chosen, admin_key), path, prune=prune, yes=yes)))


@click.command()
@click.option(
    "-o",
    "--output",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write there, what this file manages included (default: the standard output).",
)
@click.option("--all", "everything", is_flag=True, help="Include what other files manage.")
@ADMIN_KEY
def export(path: Path | None, everything: bool, admin_key: Path | None) -> None:
    """Write a file for `apply` from what is there and no file manages."""
    from gateway.cli.declarations import export as run
    from gateway.cli.reach import AdminApi

    chosen = settings()
    guarded(lambda: run(AdminApi(chosen, admin_key), path, everything=everything))
