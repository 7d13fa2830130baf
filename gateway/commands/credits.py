"""Credits: corrections of what was spent, by entries of their own."""

from __future__ import annotations

from pathlib import Path

import click

from gateway.commands.sentences import ADMIN_KEY, guarded, settings


@click.group()
def credits() -> None:
    """Give money back for what was spent, or charge more; entries are audited and never edited."""


@credits.command("enter")
@click.argument("usd")
@click.option("--reason", required=True, help="Why; it is kept with the entry.")
@click.option("--request", metavar="ID", help="The request that it corrects.")
@click.option("--principal", metavar="NAME", help="Or whose spend it corrects.")
@click.option("--group", metavar="NAME", help="With --principal: a group whose budgets see it as well.")
@click.option(
    "--endpoint", metavar="NAME", help="With --principal: an endpoint whose budgets see it as well."
)
@click.option("--charge", is_flag=True, help="Charge more instead of giving back.")
@ADMIN_KEY
def credits_enter(
    usd: str,
    reason: str,
    request: str | None,
    principal: str | None,
    group: str | None,
    endpoint: str | None,
    charge: bool,
    admin_key: Path | None,
) -> None:
    """Give USD, such as 12.50, back for a request or to a principal; budgets see it within seconds."""
    from gateway.cli.credits import entered
    from gateway.cli.reach import AdminApi

    chosen = settings()
    click.echo(
        guarded(
            lambda: entered(
                AdminApi(chosen, admin_key),
                usd=usd,
                reason=reason,
                request=request,
                principal=principal,
                group=group,
                endpoint=endpoint,
                charge=charge,
            )
        )
    )


@credits.command("list")
@click.option("--request", metavar="ID", help="Of one request.")
@click.option("--principal", metavar="NAME", help="Of one user or service principal.")
@ADMIN_KEY
def credits_list(request: str | None, principal: str | None, admin_key: Path | None) -> None:
    """List credits and charges, oldest first."""
    from gateway.cli.credits import listed
    from gateway.cli.reach import AdminApi

    chosen = settings()
    for line in guarded(lambda: listed(AdminApi(chosen, admin_key), request=request, principal=principal)):
        click.echo(line)
