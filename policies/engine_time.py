"""Who used an engine's time: every microsecond of a period goes to the calls that ran in it, or to idleness.

A call works through its prompt until its first token and through its answer after it. In each stretch of time between
two beginnings or ends the engine's time is split over the calls that run, in proportion to the tokens a second that each
goes through, a prompt's token counting `prompt_weight` of an answer's. All in whole microseconds: the parts add up to
the period exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

_A_TOKEN = 10**12
"""Density of one answer token a microsecond."""
_FINER = 40
"""Bits below a microsecond that shares are summed in."""


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt on the engine; moments in microseconds."""

    key: str
    """What its time is summed under."""
    start: int
    first: int | None
    """When the first token came; None where prompt and answer cannot be told apart."""
    end: int
    prompt_tokens: int
    """Those that were processed: tokens read from a cache cost nearly nothing."""
    answer_tokens: int


@dataclass(frozen=True, slots=True)
class EngineTime:
    """A period's engine time in microseconds, all replicas together: `busy` by key, and `idle`."""

    period: int
    idle: int
    busy: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Phase:
    start: int
    end: int
    key: str
    density: int


def attribute(
    runs: Iterable[Run], start: int, end: int, *, prompt_weight: Fraction = Fraction(1, 10)
) -> EngineTime:
    """Split the time from `start` to `end`; raises ValueError where the period has no length."""
    if end <= start:
        raise ValueError("the period ends before it begins")
    phases = [
        each
        for run in runs
        for each in _phases(run, prompt_weight)
        if each.end > start and each.start < end and each.end > each.start
    ]
    edges = sorted(
        {start, end} | {min(max(edge, start), end) for each in phases for edge in (each.start, each.end)}
    )
    beginning: dict[int, list[_Phase]] = {}
    ending: dict[int, list[_Phase]] = {}
    for each in phases:
        beginning.setdefault(max(each.start, start), []).append(each)
        ending.setdefault(min(each.end, end), []).append(each)
    running: dict[int, _Phase] = {}
    shares: dict[str, int] = {}
    idle = 0
    for edge, following in pairwise(edges):
        for each in ending.get(edge, ()):
            running.pop(id(each), None)
        for each in beginning.get(edge, ()):
            running[id(each)] = each
        if not running:
            idle += following - edge
            continue
        weights: dict[str, int] = {}
        for each in running.values():
            weights[each.key] = weights.get(each.key, 0) + each.density
        whole = sum(weights.values())
        for key, weight in weights.items():
            shares[key] = shares.get(key, 0) + (((following - edge) * weight) << _FINER) // whole
    return EngineTime(end - start, idle, _rounded(shares, end - start - idle))


def _phases(run: Run, prompt_weight: Fraction) -> list[_Phase]:
    prompt = run.prompt_tokens * prompt_weight
    if run.first is None or not run.start < run.first < run.end:
        return [_phase(run, run.start, run.end, prompt + run.answer_tokens)]
    return [
        _phase(run, run.start, run.first, prompt),
        _phase(run, run.first, run.end, Fraction(run.answer_tokens)),
    ]


def _phase(run: Run, start: int, end: int, work: Fraction) -> _Phase:
    # At least one, so that calls which went through nothing share by their number.
    return _Phase(start, end, run.key, int(work * _A_TOKEN / max(end - start, 1)) or 1)


def _rounded(shares: dict[str, int], total: int) -> dict[str, int]:
    """Whole microseconds that add up to the total: what rounding leaves goes to the largest remainders."""
    floors = {key: share >> _FINER for key, share in shares.items()}
    left = total - sum(floors.values())
    for key in sorted(shares, key=lambda key: ((floors[key] << _FINER) - shares[key], key))[:left]:
        floors[key] += 1
    return floors
