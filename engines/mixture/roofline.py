"""How fast a model can be at the best: the roofline (Williams, Waterman and Patterson, CACM 52(4), 2009).

A step takes as long as its operations at the peak rate or its bytes at full bandwidth, whichever is longer. Nothing
is faster; real engines are slower, so a caller scales by an efficiency that it has measured and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from engines.mixture.cards import Card, Precision
from engines.mixture.shape import Shape
from engines.mixture.work import (
    attended,
    cache_bytes_a_token,
    dense_flops_a_token,
    flops_a_token,
    parameters,
)

BYTES: dict[Precision, int] = {"bf16": 2, "fp8": 1}
_ACTIVATION_BYTES = 2


@dataclass(frozen=True, slots=True)
class Step:
    """One decoding step of a batch: seconds by what they are spent on, and what bounds it."""

    batch: int
    compute_seconds: float
    memory_seconds: float
    link_seconds: float

    @property
    def seconds(self) -> float:
        """Computing and reading overlap; waiting for the other cards does not."""
        return max(self.compute_seconds, self.memory_seconds) + self.link_seconds

    @property
    def tokens_a_second(self) -> float:
        """Over the whole batch."""
        return self.batch / self.seconds

    @property
    def bound(self) -> Literal["compute", "memory"]:
        """The longer of the two."""
        return "compute" if self.compute_seconds >= self.memory_seconds else "memory"


def experts_touched(experts: int, a_token: int, batch: int, shares: Sequence[float] | None = None) -> float:
    """How many distinct experts of one layer a batch reads, on average.

    Each token takes `a_token` of `experts`; for expert e with the share s of all choices a token takes it with
    probability a_token x s, so it stays unread with (1 - a_token x s)^batch. Without `shares` (they sum to 1) the
    choices are spread evenly: 8 experts, 2 a token: 2 at a batch of 1, 3.5 at 2, 7.9 at 16.
    """
    if shares is None:
        return experts * (1 - (1 - a_token / experts) ** batch)
    return sum(1 - (1 - min(a_token * share, 1.0)) ** batch for share in shares)


def decode_step(
    shape: Shape,
    card: Card,
    batch: int,
    *,
    context: int = 0,
    precision: Precision = "bf16",
    cards: int = 1,
    dense: bool = False,
    shares: Sequence[float] | None = None,
) -> Step:
    """Time one step of `batch` sequences at `context` tokens each; `dense` asks for the equal dense model."""
    counted = parameters(shape)
    touched = shape.experts if dense else experts_touched(shape.experts, shape.experts_a_token, batch, shares)
    # The embedding is looked up, not read whole; a tied one is read as the output head.
    read = (counted.head or counted.embedding) + counted.always
    weights = (read + counted.expert * touched * counted.sparse_layers) * BYTES[precision]
    cache = batch * attended(shape, context) * cache_bytes_a_token(shape)
    flops = batch * (dense_flops_a_token(shape, context) if dense else flops_a_token(shape, context))
    return Step(
        batch,
        flops / (card.peak(precision) * cards),
        (weights + cache) / (card.bandwidth * cards),
        _all_reduce(shape, card, batch, cards),
    )


def prefill_seconds(
    shape: Shape, card: Card, tokens: int, *, precision: Precision = "bf16", cards: int = 1
) -> float:
    """The least time to read a prompt of `tokens`, alone on the engine."""
    counted = parameters(shape)
    touched = experts_touched(shape.experts, shape.experts_a_token, tokens)
    weights = counted.head + counted.always + counted.expert * touched * counted.sparse_layers
    # Each token attends to half of the others on average.
    flops = tokens * flops_a_token(shape, tokens // 2)
    return max(
        flops / (card.peak(precision) * cards), weights * BYTES[precision] / (card.bandwidth * cards)
    ) + _all_reduce(shape, card, tokens, cards)


def speed_up(
    shape: Shape,
    card: Card,
    batch: int,
    *,
    context: int = 0,
    precision: Precision = "bf16",
    cards: int = 1,
) -> float:
    """How much faster the mixture decodes than the equal dense model.

    Total over active parameters (3.6 for Mixtral 8x7B) where computing bounds both, and at a batch of one, where both
    read what they use; less between, where a few tokens together touch all experts and reading them bounds both.
    """
    sparse = decode_step(shape, card, batch, context=context, precision=precision, cards=cards)
    full = decode_step(shape, card, batch, context=context, precision=precision, cards=cards, dense=True)
    return full.seconds / sparse.seconds


def _all_reduce(shape: Shape, card: Card, tokens: int, cards: int) -> float:
    """Two ring all-reduces of the activations a layer (Megatron-LM, arXiv:1909.08053, section 3)."""
    if cards == 1:
        return 0.0
    moved = 2 * (cards - 1) / cards * tokens * shape.hidden * _ACTIVATION_BYTES
    return 2 * shape.layers * moved / card.link
