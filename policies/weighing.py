"""Whether a request is admitted, and how much output it is granted: every limit and budget at once, all or nothing.

The decision that the counters' script makes, as a function of what counts at that moment. The limits of a caller's
groups are any-of by metric, everything else is all-of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import msgspec

from policies.budgets import Rates
from policies.levels import Levels
from policies.limits import Draw, Metric, Mode
from policies.windows import Rolling

NEVER = -1
SOON_SECONDS = 60
"""A limit with room again within this time throttles; any other is answered like an empty purse."""
_DAY_SECONDS = 86_400
_FOREVER = 1 << 62
_PER_TOKEN = (Metric.OUTPUT_TOKENS, Metric.TOTAL_TOKENS)


class Ask(msgspec.Struct, frozen=True, gc=False):
    """What a request needs: its estimated prompt, the output it asks for, and the least with which it may start."""

    prompt_tokens: int
    output: int
    least: int


@dataclass(frozen=True, slots=True)
class Granted:
    """Admitted: with so much output, charged to these draws (index, amount)."""

    output: int
    charges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Short:
    """Refused: the draw without room that takes longest to have it, and how long; -1 for never."""

    index: int
    wait_ms: int


def fixed_amount(draw: Draw, ask: Ask, rates: Rates) -> int:
    """What a draw is charged before the first output token."""
    match draw.metric:
        case Metric.REQUESTS | Metric.CONCURRENT_REQUESTS:
            return 1
        case Metric.OUTPUT_TOKENS:
            return 0
        case Metric.MONEY:
            return rates.fixed(ask.prompt_tokens)
        case Metric.INPUT_TOKENS | Metric.TOTAL_TOKENS:
            return ask.prompt_tokens


def token_amount(draw: Draw, rates: Rates) -> int:
    """What a draw is charged for each output token."""
    if draw.metric is Metric.MONEY:
        return rates.output_per_token
    return int(draw.metric in _PER_TOKEN)


def weigh(draws: Sequence[Draw], levels: Levels, now_ms: int, ask: Ask, rates: Rates) -> Granted | Short:
    """Decide a request; nothing is charged here."""
    output, charged = ask.output, list[int]()
    worst: Short | None = None
    longest = -1
    for number, together in groupby(enumerate(draws), key=lambda each: each[1].alternatives):
        members = list(together)
        sets = (
            [[each] for each in members]
            if number == 0
            else [list(each) for _, each in groupby(members, key=lambda each: each[1].group_id)]
        )
        nearest: tuple[int, int] | None = None
        for own in sets:
            fits, late = _room(own, levels, now_ms, ask, rates)
            if late is None:
                charged += [index for index, _ in own]
                output = min(output, fits)
                if number != 0:
                    # Any-of: the first of them with room is charged, and what the others lack is no matter.
                    nearest = None
                    break
            elif number == 0:
                if late[0] > longest:
                    longest, worst = late[0], _short(late)
            elif nearest is None or late[0] < nearest[0]:
                nearest = late
        if nearest is not None and nearest[0] > longest:
            longest, worst = nearest[0], _short(nearest)
    if worst is not None:
        return worst
    return Granted(
        output,
        tuple(
            (index, fixed_amount(draws[index], ask, rates) + token_amount(draws[index], rates) * output)
            for index in charged
        ),
    )


def retry_after_seconds(draw: Draw, wait_ms: int) -> int:
    """After how long a refused caller may come back; a day where no wait would help."""
    if wait_ms == NEVER:
        return _DAY_SECONDS
    seconds = max(1, -(-wait_ms // 1000))
    if isinstance(draw.window, Rolling) and draw.window.milliseconds <= SOON_SECONDS * 1000:
        # The window's last sub-bucket leaves a little after a whole window: a minute's limit resets in a minute.
        return min(seconds, SOON_SECONDS)
    return seconds


def _room(
    own: Sequence[tuple[int, Draw]], levels: Levels, now_ms: int, ask: Ask, rates: Rates
) -> tuple[int, tuple[int, int] | None]:
    """The output for which all of these have room; (wait, index) of the one that is full for longest."""
    fits, late = ask.output, None
    for index, draw in own:
        if draw.mode is Mode.OBSERVE:
            continue
        used, fixed, per = (
            levels.used(draw, now_ms),
            fixed_amount(draw, ask, rates),
            token_amount(draw, rates),
        )
        room = draw.capacity - used - fixed
        most = room // per if per and room >= 0 else ask.output
        if room < 0 or (per and most < ask.least):
            needed = fixed + per * ask.least
            wait = (
                _FOREVER
                if needed > draw.capacity
                else levels.wait(draw, now_ms, used + needed - draw.capacity)
            )
            if late is None or wait > late[0]:
                late = (wait, index)
        else:
            fits = min(fits, most)
    return fits, late


def _short(late: tuple[int, int]) -> Short:
    return Short(late[1], NEVER if late[0] >= _FOREVER else late[0])
