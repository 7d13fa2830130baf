"""How to serve a model on given cards: memory part by part, parallelism, and vLLM's options; or why it cannot fit.

A pure function of shape and card. It never proposes what does not hold one sequence of the full context.
"""

from __future__ import annotations

from dataclasses import dataclass

from engines.mixture.cards import Card, Precision
from engines.mixture.roofline import BYTES
from engines.mixture.shape import Shape
from engines.mixture.work import attended, cache_bytes_a_token, parameters

UTILISATION = 0.90
"""The share of a card's memory that vLLM is given (`--gpu-memory-utilization`, its own default)."""
CARDS_A_NODE = 8
_RUNTIME_BYTES = 1_500_000_000
"""Driver context, kernels, communication buffers and captured graphs of one card."""
_BATCHED_TOKENS = 8192
"""Tokens of one step that the working space is laid out for (`--max-num-batched-tokens`)."""
_GB = 1e9


class CannotFit(ValueError):
    """The model cannot be served so; the text has the arithmetic and what would fit."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to serve a model. Byte figures are for one card."""

    model: str
    card: Card
    tensor_parallel: int
    pipeline_parallel: int
    expert_parallel: bool
    precision: Precision
    context: int
    weight_bytes: int
    working_bytes: int
    cache_bytes: int
    """What is left for keys and values."""
    cache_tokens: int
    """How many tokens the cache of all cards together holds."""

    @property
    def cards(self) -> int:
        """All cards."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def nodes(self) -> int:
        """Machines of up to eight cards."""
        return -(-self.cards // CARDS_A_NODE)

    def arguments(self) -> list[str]:
        """vLLM's options beside its address; several nodes need a Ray cluster, which vLLM then joins."""
        return [
            *("--model", self.model, "--dtype", "bfloat16", "--max-model-len", str(self.context)),
            *self.layout(),
            *("--enable-prefix-caching", "--scheduling-policy", "priority"),
        ]

    def layout(self) -> list[str]:
        """Those of them that lay the model out over its cards."""
        said = [
            *("--tensor-parallel-size", str(self.tensor_parallel)),
            *("--gpu-memory-utilization", f"{UTILISATION:.2f}"),
            *("--max-num-batched-tokens", str(_BATCHED_TOKENS)),
        ]
        if self.pipeline_parallel > 1:
            said += ["--pipeline-parallel-size", str(self.pipeline_parallel)]
        if self.nodes > 1:
            said += ["--distributed-executor-backend", "ray"]
        if self.expert_parallel:
            said.append("--enable-expert-parallel")
        if self.precision == "fp8":
            said += ["--quantization", "fp8"]
        return said


def recipe(
    shape: Shape,
    card: Card,
    cards: int,
    *,
    precision: Precision = "bf16",
    context: int,
    expert_parallel: bool = False,
) -> Recipe:
    """Lay a model out over `cards`; raises CannotFit."""
    card_can(card, precision)
    if shape.longest and context > shape.longest:
        raise CannotFit(
            f"{shape.name} was made for contexts of {shape.longest:,} tokens, not {context:,}; ask for less."
        )
    tensor, pipeline = (cards, 1) if cards <= CARDS_A_NODE else (CARDS_A_NODE, cards // CARDS_A_NODE)
    if tensor * pipeline != cards:
        raise CannotFit(f"{cards} cards are not whole machines of {CARDS_A_NODE}.")
    if shape.heads % tensor:
        raise CannotFit(f"{shape.heads} attention heads cannot be shared out evenly over {tensor} cards.")
    if expert_parallel and shape.experts % tensor:
        raise CannotFit(f"{shape.experts} experts cannot be shared out evenly over {tensor} cards.")
    if pipeline > shape.layers:
        raise CannotFit(f"{shape.layers} layers cannot be spread over {pipeline} stages.")
    weights = -(-weight_bytes(shape, precision) // cards)
    working = _RUNTIME_BYTES + _activations(shape, tensor)
    usable = int(card.memory * UTILISATION)
    cache = usable - weights - working
    # A head of keys and values cannot be split: with more cards than heads each is kept more than once. A latent
    # cache is one vector, kept whole by each card.
    split = 1 if shape.latent is not None else min(tensor, shape.kv_heads)
    token = -(-cache_bytes_a_token(shape) // (split * pipeline))
    needed = attended(shape, context) * token
    if cache < needed:
        raise CannotFit(
            f"{shape.name} in {precision} on {cards} x {card.name} does not fit: of {usable / _GB:.1f} GB usable a "
            f"card, weights take {weights / _GB:.1f}, working space {working / _GB:.1f}, and one sequence of "
            f"{context:,} tokens needs {needed / _GB:.1f} more."
        )
    return Recipe(
        shape.name,
        card,
        tensor,
        pipeline,
        expert_parallel,
        precision,
        context,
        weights,
        working,
        cache,
        cache // token,
    )


def smallest(
    shape: Shape,
    card: Card,
    *,
    precision: Precision = "bf16",
    context: int,
    at_once: int = 1,
    expert_parallel: bool = False,
) -> Recipe:
    """The fewest cards (1, 2, 4, 8, 16, 32) that hold `at_once` sequences of the full context; raises CannotFit."""
    card_can(card, precision)
    reason: CannotFit | None = None
    for cards in (1, 2, 4, 8, 16, 32):
        try:
            found = recipe(
                shape, card, cards, precision=precision, context=context, expert_parallel=expert_parallel
            )
        except CannotFit as exc:
            reason = exc
            continue
        if found.cache_tokens >= at_once * attended(shape, context):
            return found
        reason = CannotFit(
            f"{cards} x {card.name} hold {found.cache_tokens:,} tokens of cache, fewer than {at_once} sequences of "
            f"{context:,} need."
        )
    assert reason is not None
    raise reason


def card_can(card: Card, precision: Precision) -> None:
    """Raise CannotFit where the card does not compute in this precision."""
    try:
        card.peak(precision)
    except ValueError as exc:
        raise CannotFit(f"{exc}.") from exc


def weight_bytes(shape: Shape, precision: Precision) -> int:
    """All weights; with fp8 the embedding and the output head stay in bfloat16, as vLLM keeps them."""
    counted = parameters(shape)
    tables = counted.embedding + counted.head
    return tables * BYTES["bf16"] + (counted.total - tables) * BYTES[precision]


def _activations(shape: Shape, tensor: int) -> int:
    # Eight vectors of the hidden width a token, and what the chosen experts widen it to, gate and value.
    widened = shape.experts_a_token * shape.expert_width + shape.shared_width
    return _BATCHED_TOKENS * 2 * (8 * shape.hidden + 2 * widened // tensor)
