"""Who used engines' time: every microsecond of a period goes to the calls that ran in it, to idleness, or to engines that were away.

How long the engines worked is what they say themselves (`Watched`, a minute of one engine or of all); where nobody asked
them, they are taken to have worked as long as calls ran. Whose time it was the ledger's calls say. A call works through its
prompt until its first token and through its answer after it; in each stretch of time between two beginnings or ends the
time is split over the calls that run, in proportion to the tokens a second that each goes through, a prompt's token counting
`prompt_weight` of an answer's. Calls cannot have kept engines at work for longer than they ran, nor explain more tokens than
they took: what an engine did beyond that belongs to nobody in the ledger and stands apart. All in whole microseconds: the parts
add up to the period times the engines exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

OTHERS = "(not in the ledger)"
"""The key of time that no call explains."""
LATE = 15 * 10**6
"""How much later than it happened the engine's counters may tell of what a call did: they are looked at every few seconds."""
_A_TOKEN = 10**12
"""Density of one answer token a microsecond."""
_WORK = 10**6
"""What one answer token counts as work."""
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
class Watched:
    """What the engines said of one stretch of time, added up over them; those of a period do not overlap."""

    start: int
    end: int
    watched: int
    """For how much of it they were looked at: no more than its length times the engines."""
    away: int
    """Of that, how long they did not answer."""
    busy: int
    """Of that, how long they worked."""
    prompt_tokens: int = 0
    """Those that were computed."""
    answer_tokens: int = 0
    steps: int = 0
    """Steps that went through all of these."""


@dataclass(frozen=True, slots=True)
class EngineTime:
    """A period's engine time in microseconds, all engines together: `busy` by key, `idle` and `away`."""

    period: int
    idle: int
    busy: dict[str, int]
    away: int = 0
    """How long engines that are paid for did not answer."""
    unwatched: int = 0
    """For how much of the period nobody asked the engines."""


@dataclass(frozen=True, slots=True)
class _Phase:
    start: int
    end: int
    key: str
    density: int


@dataclass(slots=True)
class _Use:
    """What the ledger's calls say of one stretch."""

    ran: int
    """How long any ran."""
    most: int
    """How long they can have kept all engines at work together: a call is in one at a time."""
    parts: dict[str, int]
    """Each key's part of `ran`, finer than microseconds."""


@dataclass(frozen=True, slots=True)
class _Work:
    """What engines did in one stretch, and how much of it no call explains; in millionths of an answer token."""

    done: int
    unexplained: int


def attribute(
    runs: Iterable[Run],
    start: int,
    end: int,
    *,
    prompt_weight: Fraction = Fraction(1, 10),
    engines: int = 1,
    watched: Sequence[Watched] = (),
) -> EngineTime:
    """Split the time from `start` to `end` of so many engines; raises ValueError where there is none."""
    if end <= start:
        raise ValueError("the period ends before it begins")
    if engines < 1:
        raise ValueError("there is no engine")
    calls = [each for each in runs if each.start < end and each.end > start]
    stretches = _whole(watched, start, end)
    used = _used([each for run in calls for each in _phases(run, prompt_weight)], stretches, engines)
    works = _beyond(calls, stretches, prompt_weight)
    shares: dict[str, int] = {}
    away = unwatched = worked = 0
    for each, use, work in zip(stretches, used, works, strict=True):
        room = engines * (each.end - each.start)
        seen = min(each.watched, room)
        gone = min(each.away, seen)
        told = min(each.busy, seen - gone)
        away, unwatched = away + gone, unwatched + room - seen
        others = _others(told, use, work, each.steps)
        ledgers = min(told - others, use.most)
        # Where nobody asked them, all engines count as working as long as any call ran.
        fine = (ledgers << _FINER) + ((room - seen) * use.ran << _FINER) // (each.end - each.start)
        worked += fine + (others << _FINER)
        if others:
            shares[OTHERS] = shares.get(OTHERS, 0) + (others << _FINER)
        for key, part in use.parts.items():
            shares[key] = shares.get(key, 0) + fine * part // (use.ran << _FINER)
    total = engines * (end - start)
    worked >>= _FINER
    return EngineTime(total, total - away - worked, _rounded(shares, worked), away, unwatched)


def _whole(watched: Sequence[Watched], start: int, end: int) -> list[Watched]:
    """The period as stretches one after the other: those that were watched, cut at its ends, and the gaps between."""
    found: list[Watched] = []
    at = start
    for each in sorted(watched, key=lambda each: each.start):
        first, last = max(each.start, at), min(each.end, end)
        if first >= last:
            continue
        if first > at:
            found.append(Watched(at, first, 0, 0, 0))
        inside, long = last - first, each.end - each.start
        found.append(
            Watched(
                first,
                last,
                each.watched * inside // long,
                each.away * inside // long,
                each.busy * inside // long,
                each.prompt_tokens * inside // long,
                each.answer_tokens * inside // long,
                each.steps * inside // long,
            )
        )
        at = last
    if at < end:
        found.append(Watched(at, end, 0, 0, 0))
    return found


def _used(phases: list[_Phase], stretches: Sequence[Watched], engines: int) -> list[_Use]:
    """How long calls ran in each stretch, and each key's part of it."""
    start, end = stretches[0].start, stretches[-1].end
    phases = [each for each in phases if each.end > start and each.start < end and each.end > each.start]
    edges = sorted(
        {end}
        | {each.start for each in stretches}
        | {min(max(edge, start), end) for each in phases for edge in (each.start, each.end)}
    )
    beginning: dict[int, list[_Phase]] = {}
    ending: dict[int, list[_Phase]] = {}
    for each in phases:
        beginning.setdefault(max(each.start, start), []).append(each)
        ending.setdefault(min(each.end, end), []).append(each)
    running: dict[int, _Phase] = {}
    found: list[_Use] = []
    waiting = iter(stretches)
    closes = start
    for edge, following in pairwise(edges):
        if edge == closes:
            closes = next(waiting).end
            found.append(_Use(0, 0, {}))
        for each in ending.get(edge, ()):
            running.pop(id(each), None)
        for each in beginning.get(edge, ()):
            running[id(each)] = each
        if not running:
            continue
        use = found[-1]
        use.ran += following - edge
        use.most += (following - edge) * min(len(running), engines)
        weights: dict[str, int] = {}
        for each in running.values():
            weights[each.key] = weights.get(each.key, 0) + each.density
        whole = sum(weights.values())
        for key, weight in weights.items():
            use.parts[key] = use.parts.get(key, 0) + (((following - edge) * weight) << _FINER) // whole
    return found


def _others(told: int, use: _Use, work: _Work, steps: int) -> int:
    """How much of the time that engines worked went into what no call explains.

    What the calls leave of it; but no less than that work's part in all of the work, and no more than a step for each token.
    """
    if not work.unexplained:
        # With neither tokens nor calls it is a step of somebody's that is not over yet.
        return 0 if work.done or use.ran else told
    least = told * work.unexplained // work.done
    longest = told * work.unexplained // (steps * _WORK) if steps else told
    return min(max(least, told - use.most), max(least, longest), told)


def _beyond(calls: Sequence[Run], stretches: Sequence[Watched], prompt_weight: Fraction) -> list[_Work]:
    """The engines' work in each stretch, and how much of it no call of the ledger can explain.

    A call explains as much as it took, from its beginning on, and nothing after its end.
    """

    def work(each: Run | Watched) -> int:
        return int(each.prompt_tokens * prompt_weight * _WORK) + each.answer_tokens * _WORK

    coming = sorted(calls, key=lambda each: each.start, reverse=True)
    going = sorted(calls, key=lambda each: each.end, reverse=True)
    explained = running = 0
    found: list[_Work] = []
    for each in stretches:
        while coming and coming[-1].start < each.end:
            explained += work(coming[-1])
            running += work(coming.pop())
        done = work(each)
        found.append(_Work(done, max(0, done - explained)))
        while going and going[-1].end + LATE <= each.end:
            running -= work(going.pop())
        explained = min(max(0, explained - done), running)
    return found


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
