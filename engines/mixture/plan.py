"""What a deployment of a model would do and cost: rate, first token, price a million tokens, for a given workload.

From the roofline, so the rate is at most and the price at least this; an efficiency below 1 says what share of the
roofline the engine is assumed, or was measured, to reach.
"""

from __future__ import annotations

from dataclasses import dataclass

from engines.mixture.recipe import Recipe
from engines.mixture.roofline import decode_step, prefill_seconds
from engines.mixture.shape import Shape
from engines.mixture.work import attended


@dataclass(frozen=True, slots=True)
class Workload:
    """A steady load: every request has the same prompt and answer, `at_once` of them are always running."""

    prompt_tokens: int
    answer_tokens: int
    at_once: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a recipe gives for a workload. Prices are in dollars a million tokens; 0 where no hour price was given."""

    recipe: Recipe
    at_once: int
    """How many requests really run at once: what was asked, or what the cache holds."""
    answer_tokens_a_second: float
    prompt_tokens_a_second: float
    first_token_seconds: float
    """The least time to the first token of a request that finds the engine idle."""
    token_seconds: float
    """Between two tokens of one answer."""
    bound: str
    prefill_share: float
    """The share of the engine's time that reading prompts takes."""
    prompt_price: float
    answer_price: float


def plan(
    shape: Shape, recipe: Recipe, workload: Workload, *, hour_price: float = 0.0, efficiency: float = 1.0
) -> Plan:
    """Plan a workload on a recipe; `hour_price` is for one card.

    Each answer token costs a share of a decoding step, each prompt token a share of its prefill, and the engine does
    one thing at a time: a step of `n` sequences brings n / answer_tokens new prompts with it.
    """
    if not 0 < efficiency <= 1:
        raise ValueError("an efficiency lies above 0 and is at most 1")
    length = workload.prompt_tokens + workload.answer_tokens
    at_once = max(1, min(workload.at_once, recipe.cache_tokens // max(attended(shape, length), 1)))
    step = decode_step(
        shape,
        recipe.card,
        at_once,
        context=workload.prompt_tokens + workload.answer_tokens // 2,
        precision=recipe.precision,
        cards=recipe.cards,
    )
    first = prefill_seconds(
        shape, recipe.card, workload.prompt_tokens, precision=recipe.precision, cards=recipe.cards
    )
    prefill = first * at_once / workload.answer_tokens
    whole = step.seconds + prefill
    answers = at_once / whole * efficiency
    prompts = answers * workload.prompt_tokens / workload.answer_tokens
    second_price = hour_price * recipe.cards / 3600
    share = prefill / whole
    return Plan(
        recipe,
        at_once,
        answers,
        prompts,
        first / efficiency,
        whole / efficiency,
        step.bound,
        share,
        1e6 * second_price * share / prompts,
        1e6 * second_price * (1 - share) / answers,
    )
