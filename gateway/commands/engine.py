"""The local engine: run it, plan one, look after its adapters, say what its time cost."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, cast

import click

from gateway.commands.sentences import ADMIN_KEY, guarded, settings, told


@click.group(invoke_without_command=True)
@click.pass_context
def engine(context: click.Context) -> None:
    """Run the local engine under supervision, for instance beside `serve`; or plan one."""
    if context.invoked_subcommand is not None:
        return
    from gateway.supervise.engine import engine as run

    sys.exit(run(settings()))


@engine.group("adapters")
def engine_adapters() -> None:
    """Fine-tuned adapters (LoRA) of the local engine."""


@engine_adapters.command("list")
def engine_adapters_list() -> None:
    """Show every adapter, and whether the engine has loaded it."""
    from engines.local.models import local_model
    from gateway.cli.adapters import listed

    chosen = settings()
    for line in guarded(lambda: listed(chosen.home, local_model(chosen.engine_model))):
        click.echo(line)


@engine_adapters.command("add")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--name", help="What callers name as model (default: the folder's name).")
def engine_adapters_add(folder: Path, name: str | None) -> None:
    """Take the adapter in FOLDER, as PEFT saves it; the engine loads it without a restart."""
    from gateway.cli.adapters import add

    click.echo(guarded(lambda: add(settings().home, folder, name)))


@engine_adapters.command("upload")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--name", help="What callers name as model (default: the folder's name).")
@ADMIN_KEY
def engine_adapters_upload(folder: Path, name: str | None, admin_key: Path | None) -> None:
    """Send the adapter in FOLDER to the running gateway, which may be on another machine; audited, never replacing one."""
    from gateway.cli.adapters import upload
    from gateway.cli.reach import AdminApi

    chosen = settings()
    click.echo(guarded(lambda: upload(AdminApi(chosen, admin_key), folder, name)))


@engine_adapters.command("remove")
@click.argument("name")
def engine_adapters_remove(name: str) -> None:
    """Take the adapter NAME away; the engine unloads it."""
    from gateway.cli.adapters import remove

    click.echo(guarded(lambda: remove(settings().home, name)))


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
@click.option(
    "--replicas",
    type=click.IntRange(1),
    help="How many are paid for (default: as many as were seen at once).",
)
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
    replicas: int | None,
    prompt_weight: float,
    prompt_price: float | None,
    answer_price: float | None,
    as_json: bool,
) -> None:
    """Who used the local engine's time, what it cost, and what stood idle; read as the auditor."""
    from gateway.cli.engine_cost import engine_cost as run

    chosen = settings()
    click.echo(
        told(
            lambda: run(
                chosen,
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


@engine.command("experts")
@click.option(
    "--seconds",
    type=click.FloatRange(0),
    default=0.0,
    help="Watch so long (default: since the workers began).",
)
def engine_experts(seconds: float) -> None:
    """Which experts of the model the traffic used, and how evenly, where vLLM reports it."""
    from gateway.cli.experts import experts as run

    for line in guarded(lambda: run(settings(), seconds)):
        click.echo(line)


@engine.command("plan")
@click.argument("model", default="Mixtral-8x7B")
@click.option("--card", help="One kind of card, such as h100 or h200 (default: all that are known).")
@click.option("--cards", type=click.IntRange(1, 256), help="How many (default: the fewest that fit).")
@click.option("--precision", type=click.Choice(["bf16", "fp8"]), help="Of the weights (default: both).")
@click.option(
    "--context", type=click.IntRange(1), help="Longest, in tokens (default: 32,768, or what the model takes)."
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
    context: int | None,
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
        guarded(
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
