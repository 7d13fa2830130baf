"""Models from SQL: roles, logins, and the script for other databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gateway.commands.sentences import ADMIN_KEY, guarded, settings, told


@click.group("ai-query")
def ai_query() -> None:
    """Models from SQL: whom roles of a database stand for, and how another database comes to call."""


LOGIN = click.option(
    "--login",
    default="weighbridge_caller",
    show_default=True,
    help="The database, by the role that it logs in as; the default is the gateway's own.",
)


@ai_query.command("map")
@click.argument("role")
@click.argument("principal")
@LOGIN
@ADMIN_KEY
def ai_query_map(role: str, principal: str, login: str, admin_key: Path | None) -> None:
    """Let the SQL role ROLE call models as PRINCIPAL, a user or service principal."""
    from gateway.cli.ai_query import mapped
    from gateway.cli.reach import AdminApi

    chosen = settings()
    click.echo(guarded(lambda: mapped(AdminApi(chosen, admin_key), role, principal, login)))


@ai_query.command("unmap")
@click.argument("role")
@LOGIN
@ADMIN_KEY
def ai_query_unmap(role: str, login: str, admin_key: Path | None) -> None:
    """The SQL role ROLE calls no models any more; what it has running is cut within a second."""
    from gateway.cli.ai_query import unmapped
    from gateway.cli.reach import AdminApi

    chosen = settings()
    click.echo(guarded(lambda: unmapped(AdminApi(chosen, admin_key), role, login)))


@ai_query.command("list")
@ADMIN_KEY
def ai_query_list(admin_key: Path | None) -> None:
    """List databases, their roles, and whom they stand for."""
    from gateway.cli.ai_query import listed
    from gateway.cli.reach import AdminApi

    chosen = settings()
    for line in guarded(lambda: listed(AdminApi(chosen, admin_key))):
        click.echo(line)


@ai_query.command("login")
@click.argument("name")
def ai_query_login(name: str) -> None:
    """Make the role NAME that another database logs in as, or renew its password, which is printed once."""
    from gateway.cli.ai_query import login_made

    chosen = settings()
    click.echo(told(lambda: login_made(chosen, name)))
    click.echo(f"The password of {name}. Keep it now: it cannot be shown again.", err=True)


@ai_query.command("script")
@click.option("--host", help="Where the other database reaches this gateway's PostgreSQL.")
@click.option("--port", type=int, help="Its port.")
@click.option("--database", help="Name of this gateway's database.")
@click.option("--login", default="weighbridge_caller", show_default=True, help="The role that it logs in as.")
@click.option(
    "--password-file",
    type=click.File("r"),
    help="File with that role's password, or - (default: fill it in yourself).",
)
def ai_query_script(
    host: str | None, port: int | None, database: str | None, login: str, password_file: Any
) -> None:
    """Print the script that installs ai_query() into another PostgreSQL (14 or newer, with dblink); run it as a superuser."""
    from gateway.cli.ai_query import script_for

    chosen = settings()
    password = "..." if password_file is None else password_file.read().strip()
    click.echo(script_for(chosen, host=host, port=port, database=database, login=login, password=password))
