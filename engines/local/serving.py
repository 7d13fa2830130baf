"""How the local engine serves a model on the machine at hand: on its cards by a recipe, or on the CPU; or why it cannot.

A pure function of the model's shape, the cards, the free memory and what the operator wishes. Nothing is started that
could not hold the weights and one sequence of the context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from engines.local.cards import CardAtHand
from engines.local.launch import DEMO_CONTEXT
from engines.local.models import LocalModel
from engines.mixture.cards import Card, Precision
from engines.mixture.recipe import CannotFit, Recipe, recipe, weight_bytes
from engines.mixture.work import attended, cache_bytes_a_token

_LONGEST = 32_768
"""Context where nobody says one, and the model takes as much."""
_CPU_CONTEXT = 4096
_CPU_CACHE = 256 << 20
_CPU_SPARE = 2 << 30
"""What vLLM's processes take beside weights and cache on a CPU, and what the gateway needs."""
_DEMO_SHARE = "0.10"
"""Of a card's memory that must be free for the demonstration model; several replicas may share a card."""
_EMBEDDER_BYTES = 2 << 30
"""Of a card's memory that must be free for the embedding model; engines leave a tenth of it."""
_EMBEDDER_CACHE = 64 << 20
_EMBEDDER_CONTEXT = 256
"""Tokens of a text that its authors trained it on."""
_GB = 1e9


class NoRecipe(ValueError):
    """A wish that cannot be read; the text says what it takes."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator wants of the recipe; the rest is chosen."""

    precision: Precision | None = None
    cards: int | None = None
    """Of each replica."""
    context: int | None = None
    expert_parallel: bool = False
    tell_experts: bool = False
    """Whether answers tell which experts their tokens went to."""
    seats: int | None = None
    """Calls in one step: more of them make each step longer, and with it what a new call waits for."""


@dataclass(frozen=True, slots=True)
class Serving:
    """How one replica is started."""

    device: Literal["cpu", "gpu"]
    context: int
    cache_bytes: int
    """For keys and values, where vLLM is told so much: on a CPU, and for the demonstration model."""
    cards: str | None
    """The only cards that it may see, in the words of CUDA_VISIBLE_DEVICES; None where there is no choice."""
    options: tuple[str, ...]
    """Of vLLM, beside those that every engine gets."""
    says: str
    """For people."""


def read_wish(text: str) -> Wish:
    """Read words with commas between: `bf16` or `fp8`, `cards=2`, `context=16384`, `seats=16`, `expert-parallel`, `tell-experts`; raises NoRecipe."""
    wish: dict[str, object] = {}
    for word in (each.strip() for each in text.split(",")):
        name, _, number = word.partition("=")
        if word in ("bf16", "fp8") and "precision" not in wish:
            wish["precision"] = word
        elif word in ("expert-parallel", "tell-experts"):
            wish[word.replace("-", "_")] = True
        elif (
            name in ("cards", "context", "seats")
            and name not in wish
            and number.isdecimal()
            and 0 < int(number) < 1 << 24
        ):
            wish[name] = int(number)
        elif word:
            raise NoRecipe(
                f"{word!r} is no part of a recipe; it takes bf16 or fp8, cards=2, context=16384, seats=16, expert-parallel, "
                "tell-experts, each at most once, with commas between"
            )
    return Wish(**cast("dict[str, object]", wish))  # type: ignore[arg-type]


def servings(
    model: LocalModel, cards: Sequence[CardAtHand], free_bytes: int, wish: Wish, replicas: int
) -> list[Serving]:
    """How each replica is started; raises CannotFit with the arithmetic."""
    found = _laid_out(model, cards, free_bytes, wish, replicas)
    options: list[str] = []
    if wish.seats is not None:
        options += ["--max-num-seqs", str(wish.seats)]
    if wish.tell_experts:
        _can_tell_experts(model, cards, found)
        options += ["--enable-return-routed-experts"]
    return [replace(each, options=(*each.options, *options)) for each in found]


def _can_tell_experts(model: LocalModel, cards: Sequence[CardAtHand], how: Sequence[Serving]) -> None:
    """Raise CannotFit where vLLM would refuse to start with that option."""
    if not model.shape.sparse:
        raise CannotFit(f"{model.name} is no mixture of experts: leave tell-experts out of the recipe.")
    if not cards:
        raise CannotFit(
            "vLLM tells the experts only with the model runner that needs Triton, and no NVIDIA card answers: "
            "leave tell-experts out of the recipe."
        )
    if any("--pipeline-parallel-size" in each.options for each in how):
        raise CannotFit(
            "vLLM tells no experts of a model that is laid out in stages: leave tell-experts out."
        )


def embedding(cards: Sequence[CardAtHand]) -> Serving:
    """How the small embedding model is served beside the engine: next to no room for keys and values, as it keeps none.

    On the last card where there are several, which the fewest replicas share.
    """
    if not cards:
        return Serving("cpu", _EMBEDDER_CONTEXT, _EMBEDDER_CACHE, None, (), "the embedding model on the CPU")
    card = cards[-1]
    share = -(-100 * _EMBEDDER_BYTES // card.memory)
    options = (
        "--enforce-eager",
        *("--kv-cache-memory-bytes", str(_EMBEDDER_CACHE)),
        *("--gpu-memory-utilization", f"{share / 100:.2f}"),
    )
    named = card.uuid if len(cards) > 1 else None
    return Serving("gpu", _EMBEDDER_CONTEXT, 0, named, options, f"the embedding model on {card.name}")


def _laid_out(
    model: LocalModel, cards: Sequence[CardAtHand], free_bytes: int, wish: Wish, replicas: int
) -> list[Serving]:
    if model.ships:
        return [_demonstration(cards, number) for number in range(replicas)]
    if not cards:
        return [_on_cpu(model, free_bytes, wish, replicas)] * replicas
    share = len(cards) // replicas
    if not share:
        raise CannotFit(f"{replicas} replicas need a card each; there are {_cards(cards)}.")
    # Cards that differ are laid out as the smallest of them.
    least = min(cards, key=lambda card: (card.memory, card.fp8)).planned()
    made = _recipe(model, least, share, wish, f"there are {_cards(cards)} for {replicas} replica(s)")
    return [_on_cards(made, cards[number * made.cards :][: made.cards]) for number in range(replicas)]


def _demonstration(cards: Sequence[CardAtHand], number: int) -> Serving:
    """The model that ships fits anywhere: replicas take turns on the cards."""
    if not cards:
        return Serving("cpu", DEMO_CONTEXT, _CPU_CACHE, None, (), "the demonstration model on the CPU")
    card = cards[number % len(cards)]
    options = ("--kv-cache-memory-bytes", str(_CPU_CACHE), "--gpu-memory-utilization", _DEMO_SHARE)
    named = card.uuid if len(cards) > 1 else None
    return Serving("gpu", DEMO_CONTEXT, _CPU_CACHE, named, options, f"the demonstration model on {card.name}")


def _on_cpu(model: LocalModel, free_bytes: int, wish: Wish, replicas: int) -> Serving:
    if wish.precision == "fp8" or wish.cards is not None:
        raise CannotFit("The recipe asks for cards, and no NVIDIA card answers on this machine.")
    context = wish.context or min(model.shape.longest or _CPU_CONTEXT, _CPU_CONTEXT)
    _within(model, context)
    weights = weight_bytes(model.shape, "bf16")
    cache = max(_CPU_CACHE, attended(model.shape, context) * cache_bytes_a_token(model.shape))
    needed = replicas * (weights + cache) + _CPU_SPARE
    if needed > free_bytes:
        raise CannotFit(
            f"{model.name} does not fit on the CPU: weights take {weights / _GB:.1f} GB in bf16, one sequence of {context:,} tokens "
            f"{cache / _GB:.1f}, {replicas} time(s), and {_CPU_SPARE / _GB:.1f} beside; {free_bytes / _GB:.1f} GB are free, and no "
            "NVIDIA card answers. Name a smaller model, or an engine elsewhere in WEIGHBRIDGE_ENGINE_URL."
        )
    return Serving(
        "cpu", context, cache, None, (), f"{model.name} on the CPU, bf16, {context:,} tokens of context"
    )


def _recipe(model: LocalModel, card: Card, share: int, wish: Wish, there_are: str) -> Recipe:
    """On the fewest cards of a replica's share, in bf16 where that fits and in fp8 where only that does."""
    context = wish.context or min(model.shape.longest or _LONGEST, _LONGEST)
    numbers = [each for each in (1, 2, 4, 8, 16, 32) if each <= share] if wish.cards is None else [wish.cards]
    if wish.cards is not None and wish.cards > share:
        raise CannotFit(f"The recipe asks for {wish.cards} cards a replica; {there_are}.")
    kinds: tuple[Precision, ...] = ("bf16", "fp8") if wish.precision is None else (wish.precision,)
    reasons: list[str] = []
    for kind in kinds:
        reason = ""
        for number in numbers:
            try:
                return recipe(
                    model.shape,
                    card,
                    number,
                    precision=kind,
                    context=context,
                    expert_parallel=wish.expert_parallel and number > 1,
                )
            except CannotFit as exc:
                reason = str(exc)
        reasons.append(reason)
    raise CannotFit(" ".join(reasons) + f" Of cards {there_are.removeprefix('there are ')}.")


def _on_cards(made: Recipe, cards: Sequence[CardAtHand]) -> Serving:
    several = f"{made.cards} x " if made.cards > 1 else ""
    says = (
        f"{made.model} on {several}{cards[0].name}, {made.precision}, {made.context:,} tokens of context, "
        f"{made.cache_tokens:,} held at once; a card has {made.card.memory / _GB:.1f} GB: weights {made.weight_bytes / _GB:.1f}, "
        f"working space {made.working_bytes / _GB:.1f}, cache {made.cache_bytes / _GB:.1f}"
    )
    named = ",".join(card.uuid for card in cards)
    return Serving("gpu", made.context, 0, named, tuple(made.layout()), says)


def _within(model: LocalModel, context: int) -> None:
    if model.shape.longest and context > model.shape.longest:
        raise CannotFit(
            f"{model.name} was made for contexts of {model.shape.longest:,} tokens, not {context:,}; ask for less."
        )


def _cards(cards: Sequence[CardAtHand]) -> str:
    kinds: dict[str, int] = {}
    for each in cards:
        kinds[f"{each.name} of {each.memory / _GB:.1f} GB"] = (
            kinds.get(f"{each.name} of {each.memory / _GB:.1f} GB", 0) + 1
        )
    return ", ".join(f"{number} x {name}" for name, number in kinds.items())
