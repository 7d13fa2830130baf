"""The database and the spool: bring the schema up, make the first objects, look inside, post kept records again."""

from __future__ import annotations

import sys
from typing import Any

import click

from gateway.commands.sentences import guarded, settings, told


@click.command()
def migrate() -> None:
    """Bring the database to this version, as its owner (WEIGHBRIDGE_MIGRATE_DATABASE_URL)."""
    from gateway.cli.reach import owner_url
    from gateway.store.migrate import head, upgrade

    chosen = settings()
    told(lambda: upgrade(owner_url(chosen), chosen.database_url))
    click.echo(f"The database is at revision {head()}.")


@click.command()
def seed() -> None:
    """Create what a first start needs: an administrator, the user `demo`, its endpoint, and their key files.

    It may run at any time: what is there stays, and only a missing or damaged key file gets a new key.
    """
    from gateway.cli.reach import database_url
    from gateway.seed import seed as run

    chosen = settings()
    made = told(lambda: run(chosen, database_url(chosen, "weighbridge_app"), click.echo))
    click.echo(
        f"Keys: {made.admin_key_file} (administrator), {made.demo_key_file} (user demo). Clients: {made.env_file}"
    )


@click.command()
@click.option("-c", "command", metavar="SQL", help="Run one statement and leave.")
@click.option(
    "--as",
    "who",
    type=click.Choice(["auditor", "demo", "payloads", "app", "owner"]),
    help="Whose eyes to look with (default: the auditor, who sees no secret and no prompt; payloads sees calls that are kept).",
)
def sql(command: str | None, who: str | None) -> None:
    """Look into the database, without psql. Reading only, unless as its owner or as demo."""
    from gateway.cli.sql import run

    chosen = settings()
    sys.exit(guarded(lambda: run(chosen, who, command)))


@click.group()
def spool() -> None:
    """The files between the workers and the ledger."""


@spool.command("replay")
def spool_replay() -> None:
    """Post kept segments once more, for instance after PostgreSQL was restored; nothing is counted twice."""
    from gateway.cli.reach import database_url
    from gateway.spool.quarantine import FOLDER
    from gateway.spool.replay import replay
    from gateway.store.ledger import PostgresBooks

    chosen = settings()

    async def run() -> Any:
        import socket

        books = PostgresBooks(database_url(chosen, "weighbridge_app"), host=socket.gethostname())
        try:
            return await replay(chosen.spool_dir, books)
        finally:
            await books.close()

    done = told(run)
    click.echo(
        f"{done.requests} requests read from {done.spools} spools, {done.posted} of them new to the ledger."
    )
    if done.refused:
        click.echo(
            f"{done.refused} were refused by the ledger and are kept in {chosen.spool_dir / FOLDER}, each with its reason."
        )
