"""`weighbridge`: every command, each importing only what it needs.

A command that fails says one sentence on stderr and ends with a status that is not 0.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from gateway import __version__

if TYPE_CHECKING:
    from gateway.settings import Settings

T = TypeVar("T")
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="weighbridge")
def main() -> None:
    """A governance gateway for language-model endpoints.

    `weighbridge up` starts everything on this machine. Settings come from the environment (WEIGHBRIDGE_HOME, _PORT,
    _DATABASE_URL, ...); the README lists them.
    """


@main.command()
def up() -> None:
    """Start everything: embedded stores, gateway, local engine. Ctrl-C stops it; data is kept."""
    from gateway.supervise.commands import up as run

    sys.exit(run(_settings()))


@main.command()
def serve() -> None:
    """Start the gateway alone, for production: workers and drainer on stores that are yours."""
    from gateway.supervise.commands import serve as run

    sys.exit(run(_settings()))


@main.group(invoke_without_command=True)
@click.pass_context
def engine(context: click.Context) -> None:
    """Run the local engine under supervision, for instance beside `serve`; or plan one."""
    if context.invoked_subcommand is not None:
        return
    from gateway.supervise.engine import engine as run

    sys.exit(run(_settings()))


@engine.group("adapters")
def engine_adapters() -> None:
    """Fine-tuned adapters (LoRA) of the local engine."""


@engine_adapters.command("list")
def engine_adapters_list() -> None:
    """Show every adapter, and whether the engine has loaded it."""
    from gateway.cli.adapters import listed

    for line in listed(_settings().home):
        click.echo(line)


@engine_adapters.command("add")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--name", help="What callers name as model (default: the folder's name).")
def engine_adapters_add(folder: Path, name: str | None) -> None:
    """Take the adapter in FOLDER, as PEFT saves it; the engine loads it without a restart."""
    from gateway.cli.adapters import add

    click.echo(_guarded(lambda: add(_settings().home, folder, name)))


@engine_adapters.command("remove")
@click.argument("name")
def engine_adapters_remove(name: str) -> None:
    """Take the adapter NAME away; the engine unloads it."""
    from gateway.cli.adapters import remove

    click.echo(_guarded(lambda: remove(_settings().home, name)))


@engine.command("cost")
@click.option(
    "--from", "since", metavar="TIME", help="A date, a month or a moment, UTC (default: a day ago)."
)
@click.option("--to", "until", metavar="TIME", help="Its end (default: now).")
@click.option(
    "--by",
    type=click.Choice(["principal", "group", "endpoint", "model"]),
    default="principal",
    show_default=True,
)
@click.option("--hour-price", type=click.FloatRange(0), required=True, help="Dollars an hour of one replica.")
@click.option("--replicas", type=click.IntRange(1), default=1, show_default=True)
@click.option(
    "--prompt-weight",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="What a prompt's token takes of an answer's; `engine plan` shows it as the ratio of its prices.",
)
@click.option(
    "--prompt-price", type=click.FloatRange(0), help="Another's price: dollars a million prompt tokens."
)
@click.option("--answer-price", type=click.FloatRange(0), help="And a million answer tokens.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def engine_cost(
    since: str | None,
    until: str | None,
    by: str,
    hour_price: float,
    replicas: int,
    prompt_weight: float,
    prompt_price: float | None,
    answer_price: float | None,
    as_json: bool,
) -> None:
    """Who used the local engine's time, what it cost, and what stood idle; read as the auditor."""
    from gateway.cli.engine_cost import engine_cost as run

    settings = _settings()
    click.echo(
        _told(
            lambda: run(
                settings,
                since=since,
                until=until,
                by=cast("Any", by),
                hour_price=hour_price,
                replicas=replicas,
                prompt_weight=prompt_weight,
                prompt_price=prompt_price,
                answer_price=answer_price,
                as_json=as_json,
            )
        )
    )


@engine.command("plan")
@click.argument("model", default="Mixtral-8x7B")
@click.option("--card", help="One kind of card, such as h100 or h200 (default: all that are known).")
@click.option("--cards", type=click.IntRange(1, 256), help="How many (default: the fewest that fit).")
@click.option("--precision", type=click.Choice(["bf16", "fp8"]), help="Of the weights (default: both).")
@click.option(
    "--context", type=click.IntRange(1), default=32768, show_default=True, help="Longest, in tokens."
)
@click.option("--at-once", type=click.IntRange(1), default=32, show_default=True, help="Running requests.")
@click.option("--prompt-tokens", type=click.IntRange(1), default=512, show_default=True)
@click.option("--answer-tokens", type=click.IntRange(1), default=256, show_default=True)
@click.option("--hour-price", type=click.FloatRange(0), default=0.0, help="Dollars an hour of one card.")
@click.option(
    "--efficiency",
    type=click.FloatRange(0.01, 1),
    default=1.0,
    help="Share of the roofline that the engine reaches (default: 1, so rates are upper bounds).",
)
@click.option("--expert-parallel", is_flag=True, help="Whole experts on each card instead of slices of all.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def engine_plan(
    model: str,
    card: str | None,
    cards: int | None,
    precision: str | None,
    context: int,
    at_once: int,
    prompt_tokens: int,
    answer_tokens: int,
    hour_price: float,
    efficiency: float,
    expert_parallel: bool,
    as_json: bool,
) -> None:
    """Which cards serve MODEL, how many, at what rate and price: from its shape and the cards' data sheets.

    MODEL is the name of a known model, or the path of a config.json.
    """
    from typing import cast

    from engines.mixture.cards import Precision
    from engines.mixture.plan import Workload
    from gateway.cli.engine_plan import planned

    click.echo(
        _guarded(
            lambda: planned(
                model,
                card=card,
                cards=cards,
                precision=cast("Precision | None", precision),
                context=context,
                workload=Workload(prompt_tokens, answer_tokens, at_once),
                hour_price=hour_price,
                efficiency=efficiency,
                expert_parallel=expert_parallel,
                as_json=as_json,
            )
        )
    )


@main.command()
def status() -> None:
    """What runs, and whether it is ready. Ends with 3 where nothing runs."""
    from gateway.supervise.commands import status as run

    sys.exit(run(_settings()))


@main.command()
def stop() -> None:
    """Stop what `up` or `serve` started here, in order."""
    from gateway.supervise.commands import stop as run

    sys.exit(run(_settings()))


@main.command()
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Keep showing what is added.")
def logs(name: str | None, follow: bool) -> None:
    """Show the end of the logs, or of the one called NAME."""
    from gateway.supervise.commands import logs as run

    sys.exit(run(_settings(), name, follow))


@main.command()
def doctor() -> None:
    """Find what stands in the way of a start, and say what to do about it."""
    from gateway.supervise.commands import doctor as run

    sys.exit(run(_settings()))


@main.command()
def migrate() -> None:
    """Bring the database to this version, as its owner (WEIGHBRIDGE_MIGRATE_DATABASE_URL)."""
    from gateway.cli.reach import owner_url
    from gateway.store.migrate import head, upgrade

    settings = _settings()
    _told(lambda: upgrade(owner_url(settings), settings.database_url))
    click.echo(f"The database is at revision {head()}.")


@main.command()
def seed() -> None:
    """Create what a first start needs: an administrator, the user `demo`, its endpoint, and their key files.

    It may run at any time: what is there stays, and only a missing or damaged key file gets a new key.
    """
    from gateway.cli.reach import database_url
    from gateway.seed import seed as run

    settings = _settings()
    made = _told(lambda: run(settings, database_url(settings, "weighbridge_app"), click.echo))
    click.echo(
        f"Keys: {made.admin_key_file} (administrator), {made.demo_key_file} (user demo). Clients: {made.env_file}"
    )


@main.command(hidden=True)
@click.option("--index", type=int, required=True)
@click.option("--fd", type=int, required=True)
@click.option("--admin-fd", type=int)
def worker(index: int, fd: int, admin_fd: int | None) -> None:
    """One gateway worker on sockets that `up` or `serve` opened."""
    from gateway.worker import run

    settings = _settings()
    sys.exit(_guarded(lambda: run(settings, index, fd, admin_fd)))


@main.command(hidden=True)
def drain() -> None:
    """Write what workers have settled into the ledger; one runs on each host, beside the workers."""
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    import uvloop

    from gateway.drain import run

    settings = _settings()
    _guarded(lambda: uvloop.run(run(settings)))


@main.group()
def keys() -> None:
    """Make, list, rotate and revoke API keys, through the running gateway."""


ADMIN_KEY = click.option(
    "--admin-key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with an administrator's key (default: admin.key in WEIGHBRIDGE_HOME).",
)


@keys.command("create")
@click.argument("principal")
@click.option("--name", default="", help="What to call the key.")
@click.option(
    "--expires", metavar="SPAN", help="When it ends: a number and m, h, d or w, such as 90d (default: never)."
)
@click.option("--endpoint", "endpoints", multiple=True, help="Confine it to this endpoint; may be repeated.")
@click.option(
    "--plane",
    "planes",
    multiple=True,
    type=click.Choice(["data", "control"]),
    help="Planes it is for (default: both).",
)
@click.option("--batch", is_flag=True, help="For batch work, which gives way where a limit is shared.")
@click.option("--replaces", metavar="KEY", help="Key that it takes over from, by id or beginning.")
@click.option(
    "--overlap", metavar="SPAN", help="How long the replaced key still works (default: not at all)."
)
@ADMIN_KEY
def keys_create(
    principal: str,
    name: str,
    expires: str | None,
    endpoints: tuple[str, ...],
    planes: tuple[str, ...],
    batch: bool,
    replaces: str | None,
    overlap: str | None,
    admin_key: Path | None,
) -> None:
    """Make a key of PRINCIPAL, a user or service principal. It is printed once and kept nowhere."""
    from gateway.cli.keys import create
    from gateway.cli.reach import AdminApi

    settings = _settings()
    text, details = _guarded(
        lambda: create(
            AdminApi(settings, admin_key),
            principal,
            name=name,
            expires=expires,
            endpoints=endpoints,
            planes=planes,
            batch=batch,
            replaces=replaces,
            overlap=overlap,
        )
    )
    click.echo(text)
    click.echo(f"Key {details['id']} of {principal}. Keep it now: it cannot be shown again.", err=True)


@keys.command("list")
@click.argument("principal", required=False)
@ADMIN_KEY
def keys_list(principal: str | None, admin_key: Path | None) -> None:
    """List keys, of PRINCIPAL or of all."""
    from gateway.cli.keys import condition, listed
    from gateway.cli.reach import AdminApi

    settings = _settings()
    found = _guarded(lambda: listed(AdminApi(settings, admin_key), principal))
    for key, owner in found:
        ends = f"until {key['expires_at'][:16]}" if key["expires_at"] else ""
        used = f"used {key['last_used_at'][:16]}" if key["last_used_at"] else "not used yet"
        fields = [
            key["id"],
            key["prefix"] + "...",
            f"{condition(key):<8}",
            f"{owner:<16}",
            key["name"],
            ends,
            used,
        ]
        click.echo("  ".join(field for field in fields if field))


@keys.command("rotate")
@click.argument("key")
@click.option(
    "--overlap",
    metavar="SPAN",
    default="24h",
    show_default=True,
    help="How long the old key still works: a number and m, h, d or w, or 0 for not at all.",
)
@ADMIN_KEY
def keys_rotate(key: str, overlap: str, admin_key: Path | None) -> None:
    """Make a key like KEY (its id, or how it begins) that takes over from it. It is printed once and kept nowhere.

    The new key has the name, scopes, priority and lifetime of the old one and shares its limits and budgets.
    """
    from gateway.cli.keys import rotate
    from gateway.cli.reach import AdminApi

    settings = _settings()
    text, details, replaced = _guarded(lambda: rotate(AdminApi(settings, admin_key), key, overlap=overlap))
    click.echo(text)
    click.echo(
        f"Key {details['id']} takes over from {replaced['prefix']}..., which works until {replaced['expires_at'][:16]}."
        " Keep the new one now: it cannot be shown again.",
        err=True,
    )


@keys.command("revoke")
@click.argument("key")
@ADMIN_KEY
def keys_revoke(key: str, admin_key: Path | None) -> None:
    """Revoke KEY (its id, or how it begins), for good; every worker refuses it within a second."""
    from gateway.cli.keys import revoke
    from gateway.cli.reach import AdminApi

    settings = _settings()
    gone = _guarded(lambda: revoke(AdminApi(settings, admin_key), key))
    click.echo(f"Revoked {gone['prefix']}... ({gone['id']}).")


@main.group()
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

    settings = _settings()
    click.echo(
        _guarded(
            lambda: entered(
                AdminApi(settings, admin_key),
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

    settings = _settings()
    for line in _guarded(lambda: listed(AdminApi(settings, admin_key), request=request, principal=principal)):
        click.echo(line)


@main.command()
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

    settings = _settings()
    click.echo(
        _guarded(
            lambda: explained(
                AdminApi(settings, admin_key),
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


@main.command()
@FILE
@PRUNE
@ADMIN_KEY
def diff(path: Path, prune: bool, admin_key: Path | None) -> None:
    """Show what `apply` would do. Ends with 2 where that makes a difference, with 0 where it does not."""
    from gateway.cli.declarations import diff as run
    from gateway.cli.reach import AdminApi

    settings = _settings()
    sys.exit(_guarded(lambda: run(AdminApi(settings, admin_key), path, prune=prune)))


@main.command()
@FILE
@PRUNE
@click.option("--yes", is_flag=True, help="Do not ask.")
@ADMIN_KEY
def apply(path: Path, prune: bool, yes: bool, admin_key: Path | None) -> None:
    """Make what is there into what a file declares: all of it, or nothing. What it manages is read-only elsewhere."""
    from gateway.cli.declarations import apply as run
    from gateway.cli.reach import AdminApi

    settings = _settings()
    sys.exit(_guarded(lambda: run(AdminApi(settings, admin_key), path, prune=prune, yes=yes)))


@main.command()
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

    settings = _settings()
    _guarded(lambda: run(AdminApi(settings, admin_key), path, everything=everything))


@main.command()
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
        click.echo(_guarded(listed))
        return
    settings = _settings()
    _told(
        lambda: run(
            settings, name, since=since, until=until, group=group, form=cast("Any", form), output=output
        )
    )


@main.command("export-usage")
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

    settings = _settings()
    _told(lambda: run(settings, folder, since=since, until=until, form=cast("Any", form)))


@main.command()
@click.option("-c", "command", metavar="SQL", help="Run one statement and leave.")
@click.option(
    "--as",
    "who",
    type=click.Choice(["auditor", "demo", "app", "owner"]),
    help="Whose eyes to look with (default: the auditor, who sees no secret and no prompt).",
)
def sql(command: str | None, who: str | None) -> None:
    """Look into the database, without psql. Reading only, unless as its owner or as demo."""
    from gateway.cli.sql import run

    settings = _settings()
    sys.exit(_guarded(lambda: run(settings, who, command)))


@main.group("ai-query")
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

    settings = _settings()
    click.echo(_guarded(lambda: mapped(AdminApi(settings, admin_key), role, principal, login)))


@ai_query.command("unmap")
@click.argument("role")
@LOGIN
@ADMIN_KEY
def ai_query_unmap(role: str, login: str, admin_key: Path | None) -> None:
    """The SQL role ROLE calls no models any more; what it has running is cut within a second."""
    from gateway.cli.ai_query import unmapped
    from gateway.cli.reach import AdminApi

    settings = _settings()
    click.echo(_guarded(lambda: unmapped(AdminApi(settings, admin_key), role, login)))


@ai_query.command("list")
@ADMIN_KEY
def ai_query_list(admin_key: Path | None) -> None:
    """List databases, their roles, and whom they stand for."""
    from gateway.cli.ai_query import listed
    from gateway.cli.reach import AdminApi

    settings = _settings()
    for line in _guarded(lambda: listed(AdminApi(settings, admin_key))):
        click.echo(line)


@ai_query.command("login")
@click.argument("name")
def ai_query_login(name: str) -> None:
    """Make the role NAME that another database logs in as, or renew its password, which is printed once."""
    from gateway.cli.ai_query import login_made

    settings = _settings()
    click.echo(_told(lambda: login_made(settings, name)))
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

    settings = _settings()
    password = "..." if password_file is None else password_file.read().strip()
    click.echo(script_for(settings, host=host, port=port, database=database, login=login, password=password))


@main.command("sql-calls", hidden=True)
def sql_calls() -> None:
    """Answer calls from SQL; one runs on each host, beside the workers."""
    from gateway.sqlcalls.process import run

    settings = _settings()
    sys.exit(_guarded(lambda: run(settings)))


@main.command()
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

    settings = _settings()
    try:
        report = look(settings, audit_only=audit, heads=heads, metrics=metrics)
    except Exception as exc:
        said = sentence(exc)
        if said is None:
            raise
        click.echo(f"Error: {said}", err=True)
        sys.exit(2)
    click.echo(FORMATS[as_](report))
    sys.exit(report.status)


@main.group()
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

    settings = _settings()
    erased, refusals = _guarded(lambda: run(settings, entries, principal, reason))
    click.echo(f"Erased the contents of {erased} entries and {refusals} refusals.")


@main.group()
def spool() -> None:
    """The files between the workers and the ledger."""


@spool.command("replay")
def spool_replay() -> None:
    """Post kept segments once more, for instance after PostgreSQL was restored; nothing is counted twice."""
    from gateway.cli.reach import database_url
    from gateway.spool.replay import replay
    from gateway.store.ledger import PostgresBooks

    settings = _settings()

    async def run() -> Any:
        import socket

        books = PostgresBooks(database_url(settings, "weighbridge_app"), host=socket.gethostname())
        try:
            return await replay(settings.spool_dir, books)
        finally:
            await books.close()

    done = _told(run)
    click.echo(
        f"{done.requests} requests read from {done.spools} spools, {done.posted} of them new to the ledger."
    )


def _settings() -> Settings:
    from gateway.settings import Settings, SettingsError

    try:
        return Settings.from_env()
    except SettingsError as exc:
        raise click.ClickException(str(exc)) from exc


def _told(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    import asyncio

    return _guarded(lambda: asyncio.run(work()))


def _guarded(work: Callable[[], T]) -> T:
    """What `work` answers; what went wrong as one sentence."""
    from gateway.cli.failures import sentence

    try:
        return work()
    except Exception as exc:
        said = sentence(exc)
        if said is None:
            raise
        raise click.ClickException(said) from exc


if __name__ == "__main__":
    main()
