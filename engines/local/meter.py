"""How long a vLLM server was at work between two looks at its metrics, and on what; pure.

Calls in the engine times time follows from the latencies that it adds up: a first token's since the call came, every other
token's since the one before. How many calls a step had on average follows from how often it added one up. Calls times time by
calls a step is how long it worked: exact while that number does not change between two looks, and never more than passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from engines.local.gauges import RUNNING

_STEPS = "vllm:iteration_tokens_total_count"
_FIRST = "vllm:time_to_first_token_seconds"
_NEXT = "vllm:inter_token_latency_seconds"
_PROMPT = "vllm:prompt_tokens_total"
_CACHED = "vllm:prompt_tokens_cached_total"
_ANSWER = "vllm:generation_tokens_total"
METRICS = (
    *(RUNNING, _STEPS, f"{_FIRST}_sum", f"{_FIRST}_count", f"{_NEXT}_sum", f"{_NEXT}_count"),
    *(_PROMPT, _CACHED, _ANSWER),
)
"""All that is read here."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the counters of one server stood at; `present` in microseconds, added up over calls."""

    running: int
    steps: int
    outputs: int
    """Calls that a step had something for, added up over steps."""
    present: int
    prompt_tokens: int
    """Those that were computed; what was found in a cache was not."""
    cached_tokens: int
    answer_tokens: int


class Worked(NamedTuple):
    """What a stretch of time came to, in whole numbers; times in microseconds."""

    watched: int = 0
    """How much of it the server was looked at."""
    away: int = 0
    """Of that, how long it did not answer."""
    busy: int = 0
    """Of that, how long it worked."""
    present: int = 0
    """Time that calls spent in it, added up over them; by `busy`: how many were there at once."""
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    answer_tokens: int = 0

    def plus(self, other: Worked) -> Worked:
        """Both together."""
        return Worked(*(one + more for one, more in zip(self, other, strict=True)))

    def over(self, passed: int, edges: Iterable[int]) -> list[Worked]:
        """The parts of a stretch that `passed`, up to each of these moments in it; they add up to the whole exactly."""
        found: list[Worked] = []
        before = Worked()
        for edge in edges:
            until = Worked(*(each * edge // passed for each in self))
            found.append(Worked(*(now - then for now, then in zip(until, before, strict=True))))
            before = until
        return found


def reading(metrics: Mapping[str, float]) -> Reading | None:
    """Read a server's metrics, each added up over its labels; None where it is no vLLM that counts its steps."""
    try:
        found = {name: metrics[name] for name in METRICS if name != _CACHED}
    except KeyError:
        return None
    cached = int(metrics.get(_CACHED, 0))
    return Reading(
        int(found[RUNNING]),
        int(found[_STEPS]),
        int(found[f"{_FIRST}_count"] + found[f"{_NEXT}_count"]),
        int((found[f"{_FIRST}_sum"] + found[f"{_NEXT}_sum"]) * 1e6),
        max(0, int(found[_PROMPT]) - cached),
        cached,
        int(found[_ANSWER]),
    )


def worked(before: Reading, after: Reading, passed: int) -> Worked | None:
    """What happened in the `passed` microseconds between two looks; None where the server began anew in between."""
    steps, outputs = after.steps - before.steps, after.outputs - before.outputs
    present, answers = after.present - before.present, after.answer_tokens - before.answer_tokens
    prompts, cached = (
        after.prompt_tokens - before.prompt_tokens,
        after.cached_tokens - before.cached_tokens,
    )
    if min(steps, outputs, present, answers, prompts, cached) < 0:
        return None
    if steps and outputs:
        busy = min(passed, present * steps // outputs)
    else:
        # No step ended: one that takes longer than from look to look, or none.
        busy = passed * ((before.running > 0) + (after.running > 0)) // 2
    return Worked(passed, 0, busy, present, steps, prompts, cached, answers)
