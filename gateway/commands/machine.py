"""Start, watch and stop the gateway's processes on this machine."""

from __future__ import annotations

import sys

import click

from gateway.commands.sentences import guarded, settings


@click.command()
def up() -> None:
    """Start everything: embedded stores, gateway, local engine. Ctrl-C stops it; data is kept."""
    from gateway.supervise.commands import up as run

    sys.exit(run(settings()))


@click.command()
def serve() -> None:
    """Start the gateway alone, for production: workers and drainer on stores that are yours."""
    from gateway.supervise.commands import serve as run

    sys.exit(run(settings()))


@click.command()
def status() -> None:
    """What runs, and whether it is ready. Ends with 3 where nothing runs."""
    from gateway.supervise.commands import status as run

    sys.exit(run(settings()))


@click.command()
def stop() -> None:
    """Stop what `up` or `serve` started here, in order."""
    from gateway.supervise.commands import stop as run

    sys.exit(run(settings()))


@click.command()
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Keep showing what is added.")
def logs(name: str | None, follow: bool) -> None:
    """Show the end of the logs, or of the one called NAME."""
    from gateway.supervise.commands import logs as run

    sys.exit(run(settings(), name, follow))


@click.command()
def doctor() -> None:
    """Find what stands in the way of a start, and say what to do about it."""
    from gateway.supervise.commands import doctor as run

    sys.exit(run(settings()))


@click.command(hidden=True)
@click.option("--index", type=int, required=True)
@click.option("--fd", type=int, required=True)
@click.option("--admin-fd", type=int)
def worker(index: int, fd: int, admin_fd: int | None) -> None:
    """One gateway worker on sockets that `up` or `serve` opened."""
    from gateway.worker import run

    chosen = settings()
    sys.exit(guarded(lambda: run(chosen, index, fd, admin_fd)))


@click.command(hidden=True)
def drain() -> None:
    """Write what workers have settled into the ledger; one runs on each host, beside the workers."""
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    import uvloop

    from gateway.drain import run

    chosen = settings()
    guarded(lambda: uvloop.run(run(chosen)))


@click.command()
def embedder() -> None:
    """Run the small embedding model under supervision, for instance beside `serve`."""
    from gateway.supervise.embedder import embedder as run

    sys.exit(run(settings()))


@click.command("sql-calls", hidden=True)
def sql_calls() -> None:
    """Answer calls from SQL; one runs on each host, beside the workers."""
    from gateway.sqlcalls.process import run

    chosen = settings()
    sys.exit(guarded(lambda: run(chosen)))
