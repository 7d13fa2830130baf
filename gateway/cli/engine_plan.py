"""`weighbridge engine plan`: which cards, how many, what rate and what price a million tokens, as text or JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engines.mixture.cards import CARDS, Card, Precision
from engines.mixture.known import CONFIGS
from engines.mixture.plan import Plan, Workload, plan
from engines.mixture.recipe import CannotFit, Recipe, recipe, smallest
from engines.mixture.roofline import decode_step, speed_up
from engines.mixture.shape import Shape, UnknownShape, read_shape
from engines.mixture.work import cache_bytes_a_token, dense_flops_a_token, flops_a_token, parameters

LONGEST = 32_768
"""Context where nobody says one, and the model takes as much."""
_BATCHES = (1, 4, 16, 64, 256, 1024)


class CannotPlan(Exception):
    """The text says what to give instead."""


def find_shape(model: str) -> Shape:
    """The shape of a known model, by its name or its end, or of a config.json; raises CannotPlan."""
    path = Path(model)
    if path.is_dir():
        path /= "config.json"
    if path.suffix == ".json":
        try:
            return read_shape(json.loads(path.read_bytes()), path.parent.name or path.stem)
        except (OSError, ValueError, UnknownShape) as exc:
            raise CannotPlan(f"{path} cannot be read as a model's config: {exc}.") from exc
    found = [name for name in CONFIGS if model.casefold() in name.casefold()]
    if len(found) != 1:
        raise CannotPlan(
            f"{model!r} names {'no known model' if not found else 'several models'}; give the path of its "
            f"config.json, or one of: {', '.join(found or CONFIGS)}."
        )
    return read_shape(CONFIGS[found[0]], found[0])


def planned(
    model: str,
    *,
    card: str | None,
    cards: int | None,
    precision: Precision | None,
    context: int | None,
    workload: Workload,
    hour_price: float,
    efficiency: float,
    expert_parallel: bool,
    as_json: bool,
) -> str:
    """Everything that fits, smallest first for each card and precision; raises CannotPlan where nothing does."""
    shape = find_shape(model)
    context = context or min(shape.longest or LONGEST, LONGEST)
    if card is not None and card not in CARDS:
        raise CannotPlan(f"{card!r} is no known card; known are {', '.join(CARDS)}.")
    plans: list[Plan] = []
    refused: list[str] = []
    for each in [CARDS[card]] if card else CARDS.values():
        kinds = _precisions(each) if precision is None else (precision,)
        for kind in kinds:
            try:
                found = _recipe(shape, each, cards, kind, context, expert_parallel)
            except CannotFit as exc:
                refused.append(str(exc))
            else:
                plans.append(plan(shape, found, workload, hour_price=hour_price, efficiency=efficiency))
    if not plans:
        raise CannotPlan(refused[0])
    if as_json:
        return json.dumps(
            {
                "model": _sizes(shape),
                "plans": [
                    _told(each) | {"batches": _batches(shape, each, workload, efficiency)} for each in plans
                ],
                "refused": refused,
            },
            indent=2,
        )
    return _text(shape, plans, refused, workload, hour_price, efficiency)


def _recipe(
    shape: Shape, card: Card, cards: int | None, precision: Precision, context: int, expert_parallel: bool
) -> Recipe:
    if cards is None:
        return smallest(shape, card, precision=precision, context=context, expert_parallel=expert_parallel)
    return recipe(shape, card, cards, precision=precision, context=context, expert_parallel=expert_parallel)


def _precisions(card: Card) -> tuple[Precision, ...]:
    return ("bf16",) if card.fp8 is None else ("bf16", "fp8")


def _sizes(shape: Shape) -> dict[str, Any]:
    counted = parameters(shape)
    return {
        "name": shape.name,
        "parameters": counted.total,
        "active_parameters": counted.active,
        "experts": shape.experts,
        "experts_a_token": shape.experts_a_token,
        "flops_a_token": flops_a_token(shape),
        "equal_dense_flops_a_token": dense_flops_a_token(shape),
        "cache_bytes_a_token": cache_bytes_a_token(shape),
    }


def _told(each: Plan) -> dict[str, Any]:
    return asdict(each) | {"cards": each.recipe.cards, "arguments": each.recipe.arguments()}


def _batches(shape: Shape, made: Plan, workload: Workload, efficiency: float) -> list[dict[str, Any]]:
    """The roofline by how many sequences a step has, of this workload's length, up to what the cache holds."""
    recipe = made.recipe
    context = workload.prompt_tokens + workload.answer_tokens // 2
    found: list[dict[str, Any]] = []
    for batch in _BATCHES:
        if batch > 1 and batch * (workload.prompt_tokens + workload.answer_tokens) > recipe.cache_tokens:
            break
        step = decode_step(
            shape, recipe.card, batch, context=context, precision=recipe.precision, cards=recipe.cards
        )
        times = speed_up(
            shape, recipe.card, batch, context=context, precision=recipe.precision, cards=recipe.cards
        )
        found.append(
            {
                "batch": batch,
                "step_seconds": step.seconds / efficiency,
                "tokens_a_second": step.tokens_a_second * efficiency,
                "bound": step.bound,
                "times_equal_dense": times,
            }
        )
    return found


def _text(
    shape: Shape,
    plans: list[Plan],
    refused: list[str],
    workload: Workload,
    hour_price: float,
    efficiency: float,
) -> str:
    counted = parameters(shape)
    lines = [
        f"{shape.name}: {counted.total / 1e9:.1f}B parameters, {counted.active / 1e9:.1f}B active a token"
        + (f" ({shape.experts_a_token} of {shape.experts} experts)" if shape.sparse else ""),
        (
            f"{flops_a_token(shape) / 1e9:.0f} GFLOP a token ({dense_flops_a_token(shape) / 1e9:.0f} for the equal dense "
            f"model, {dense_flops_a_token(shape) / flops_a_token(shape):.1f} x), {cache_bytes_a_token(shape):,} bytes of cache a token"
        ),
        (
            f"Load: {workload.at_once} at once, prompts of {workload.prompt_tokens:,}, answers of "
            f"{workload.answer_tokens:,} tokens, at {efficiency:.0%} of the roofline"
        ),
        "",
        (
            f"{'cards':<15}{'':<5}{'weights':>9}{'cache':>9}{'tokens held':>13}{'answer t/s':>12}{'first token':>13}"
            f"{'prompt $/M':>12}{'answer $/M':>12}  bound by"
        ),
    ]
    for each in plans:
        made = each.recipe
        prices = (
            f"{each.prompt_price:>12.3f}{each.answer_price:>12.3f}" if hour_price else f"{'-':>12}{'-':>12}"
        )
        lines.append(
            f"{made.cards:>2} x {made.card.name:<10}{made.precision:<5}{made.weight_bytes / 1e9:>6.1f} GB"
            f"{made.cache_bytes / 1e9:>6.1f} GB{made.cache_tokens:>13,}{each.answer_tokens_a_second:>12,.0f}"
            f"{each.first_token_seconds * 1000:>10,.0f} ms{prices}  {each.bound}"
        )
    lines.append("")
    if len(plans) == 1:
        made = plans[0].recipe
        lines.append(
            f"{'sequences a step':<18}{'step':>10}{'tokens/s':>10}  {'bound by':<9}{'the equal dense model takes':>28}"
        )
        lines += [
            f"{each['batch']:>16}  {each['step_seconds'] * 1000:>7,.1f} ms{each['tokens_a_second']:>10,.0f}  {each['bound']:<9}"
            f"{each['times_equal_dense']:>24.1f} x as long"
            for each in _batches(shape, plans[0], workload, efficiency)
        ]
        lines += ["", f"For {made.context:,} tokens of context at most:"]
        lines.append("vllm serve " + " ".join(made.arguments()[1:]))
        if made.nodes > 1:
            lines.append(
                f"{made.nodes} machines: first `ray start --head` on one, `ray start --address=...` on the others."
            )
    else:
        lines.append("Weights and cache are a card's; name one with --card to see its vLLM options.")
    lines += refused
    return "\n".join(lines)
