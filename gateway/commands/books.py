"""Verify the books and the audit's chain; erase what the law asks to be erased."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gateway.commands.sentences import guarded, settings


@click.command()
@click.option("--audit", is_flag=True, help="Only the audit's chain.")
@click.option(
    "--format",
    "as_",
    type=click.Choice(["text", "json", "prometheus"]),
    default="text",
    help="For people (default), for machines, or as metrics.",
)
@click.option(
    "--heads",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File of exported heads of the audit (default: WEIGHBRIDGE_AUDIT_HEADS).",
)
@click.option(
    "--metrics",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the metrics there too, for instance for node exporter's textfile collector.",
)
def verify(audit: bool, as_: str, heads: Path | None, metrics: Path | None) -> None:
    """Check the books: ledger = attempts = roll-ups = balances = counters, dropped weeks, the audit's chain.

    Nothing is changed and nothing waits for it. Ends with 0 where all of it holds, with 1 where something does not,
    which is then named, and with 2 where not everything could be looked at.
    """
    from gateway.cli.failures import sentence
    from gateway.cli.verify import FORMATS
    from gateway.cli.verify import run as look

    chosen = settings()
    try:
        report = look(chosen, audit_only=audit, heads=heads, metrics=metrics)
    except Exception as exc:
        said = sentence(exc)
        if said is None:
            raise
        click.echo(f"Error: {said}", err=True)
        sys.exit(2)
    click.echo(FORMATS[as_](report))
    sys.exit(report.status)


@click.group()
def audit() -> None:
    """The record of changes, logins and refusals; `verify --audit` checks it."""


@audit.command("erase")
@click.argument("entries", nargs=-1, type=click.IntRange(min=1))
@click.option("--refusals-of", "principal", metavar="ID", help="Erase every refusal of this principal too.")
@click.option("--reason", required=True, help="Why; kept in the audit.")
def audit_erase(entries: tuple[int, ...], principal: str | None, reason: str) -> None:
    """Erase for good what ENTRIES, by number, are about. Their digests stay, so the chain still holds.

    It is done as the schema's owner (WEIGHBRIDGE_MIGRATE_DATABASE_URL), and recorded.
    """
    from gateway.cli.erase import run

    chosen = settings()
    erased, refusals = guarded(lambda: run(chosen, entries, principal, reason))
    click.echo(f"Erased the contents of {erased} entries and {refusals} refusals.")
