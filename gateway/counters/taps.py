"""One draw as the scripts and the settlement see it, and the parts that a plan is joined of: taps with their bytes.

A part is made of the draws of one endpoint or of one caller. It knows neither epoch nor neighbours, so it joins with
any other; what parts of one form have in common is their shape, of which there is one for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from gateway.counters.frames import DRAW
from gateway.counters.keys import Keys
from gateway.counters.lua import bulk
from policies.budgets import Rates
from policies.limits import SHARED, Draw, Metric, Mode
from policies.windows import FOREVER_MS, Calendar, Rolling, edges

T = TypeVar("T")

ROLLING, PERIOD, CONCURRENCY, CLAIM = 1, 2, 3, 4
KIND_LETTERS = {ROLLING: "r", PERIOD: "p", CONCURRENCY: "n", CLAIM: "i"}
KIND_NUMBERS = {letter: number for number, letter in KIND_LETTERS.items()}
NOTHING, ONE, PROMPT, MONEY = 0, 1, 2, 3
LASTING_MS = 3_600_000
_AMOUNTS = {
    Metric.REQUESTS: ONE,
    Metric.CONCURRENT_REQUESTS: ONE,
    Metric.INPUT_TOKENS: PROMPT,
    Metric.OUTPUT_TOKENS: NOTHING,
    Metric.TOTAL_TOKENS: PROMPT,
    Metric.MONEY: MONEY,
}
_ACTUALS = {
    Metric.INPUT_TOKENS: 1,
    Metric.OUTPUT_TOKENS: 2,
    Metric.TOTAL_TOKENS: 3,
    Metric.MONEY: 4,
}
_TOKEN_METRICS = (Metric.INPUT_TOKENS, Metric.OUTPUT_TOKENS, Metric.TOTAL_TOKENS)


Identity = tuple[str, str, str, str, str]
"""Limit, subject, metric, key, kind."""
Form = tuple[int, int, int, int]
"""What the same draw of others has as well: amount class, per token, window, capacity."""
Settled = tuple[int, int, int, int, int, int]
"""What a settlement corrects: (index, kind, window, amount class, per token, which of the used amounts)."""


@dataclass(frozen=True, slots=True)
class Tap:
    """One draw as the script and the settlement see it."""

    draw: Draw
    kind: int
    letter: str
    metric: str
    amount_class: int
    per_token: int
    key: str
    """Of a period: the present one's."""
    next_key: str
    window_ms: int
    """Sliding: its width; period: its length."""
    start_ms: int
    end_ms: int
    next_end_ms: int
    observe: bool
    identity: Identity
    """What a Charge begins with."""

    def key_at(self, position: int) -> str:
        """The key that was charged at this position."""
        return self.next_key if self.kind == PERIOD and position != self.start_ms else self.key


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """All of a part but whose it is: equal for callers by the thousand, so made once and compared by identity."""

    forms: tuple[Form, ...]
    keys: int
    rows: bytes
    """The draws for the reservation's script."""
    requests: tuple[int, ...]
    """Indexes of the taps that count requests; their tightest shows in the headers."""
    tokens: tuple[int, ...]
    money_taps: tuple[int, ...]
    periods: tuple[tuple[int, int], ...]
    """(index, start) of the taps of calendar periods."""
    has_alternatives: bool
    settled: tuple[Settled, ...]
    lasting: bool
    """Whether a hold is kept that the settlement has to end."""
    valid_until_ms: int


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What an endpoint or a caller brings to a plan."""

    shape: Shape
    taps: tuple[Tap, ...]
    """For what is rare. What every call looks at stands beside it, so that its caches hold more of it."""
    identities: tuple[Identity, ...]
    keys: bytes
    """The names of the counters, as the reservation's script is given them."""
    settled_keys: bytes
    """Of these, what a settlement corrects."""


def part_of(keys: Keys, draws: Sequence[Draw], rates: Rates, now_ms: int) -> Part:
    """Compile draws as of `now_ms`; they are in order."""
    taps = [_tap(keys, draw, rates, now_ms) for draw in draws]
    rows: list[bytes] = []
    group, number = None, 0
    for tap in taps:
        if tap.draw.group_id != group:
            group, number = tap.draw.group_id, number + 1
        rows.append(row_of(tap, tap.amount_class, tap.draw.alternatives, number))
    named = [(each.key, each.next_key) if each.kind == PERIOD else (each.key,) for each in taps]
    return assembled(taps, rows, named)


def assembled(taps: Sequence[Tap], rows: Sequence[bytes], named: Sequence[tuple[str, ...]]) -> Part:
    """A part of these taps; `rows` and the keys `named` are what the reservation's script gets of each."""
    shown = [index for index, tap in enumerate(taps) if not tap.observe]
    settled = tuple(
        (index, tap.kind, tap.window_ms, tap.amount_class, tap.per_token, _ACTUALS.get(tap.draw.metric, 0))
        for index, tap in enumerate(taps)
        if tap.draw.metric is not Metric.REQUESTS
    )
    shape = _shape(
        tuple((tap.amount_class, tap.per_token, tap.window_ms, tap.draw.capacity) for tap in taps),
        sum(map(len, named)),
        b"".join(rows),
        tuple(index for index in shown if taps[index].draw.metric is Metric.REQUESTS),
        tuple(index for index in shown if taps[index].draw.metric in _TOKEN_METRICS),
        tuple(index for index, tap in enumerate(taps) if tap.draw.metric is Metric.MONEY),
        tuple((index, tap.start_ms) for index, tap in enumerate(taps) if tap.kind == PERIOD),
        any(tap.draw.alternatives for tap in taps),
        settled,
        # As in the script: where nothing lasts, no hold is kept that a settlement would have to end.
        any(lasts(KIND_LETTERS[kind], window_ms) for _, kind, window_ms, *_ in settled),
        min((tap.end_ms for tap in taps if tap.kind == PERIOD), default=FOREVER_MS),
    )
    return Part(
        shape,
        tuple(taps),
        tuple(tap.identity for tap in taps),
        b"".join([bulk(key.encode()) for each in named for key in each]),
        b"".join([bulk(taps[each[0]].key.encode()) for each in settled]),
    )


def lasts(kind: str, window_ms: int) -> bool:
    """Whether what a dead worker took of such a counter would stay there for long: a hold is kept of it.

    Counts of requests are not asked for: a settlement lets them stand.
    """
    return kind in ("p", "i") or (kind == "r" and window_ms >= LASTING_MS)


def row_of(tap: Tap, amount_class: int, alternatives: int, number: int) -> bytes:
    """A draw for the reservation's script."""
    first = tap.window_ms if tap.kind == ROLLING else tap.start_ms
    return DRAW.pack(
        tap.kind, amount_class, tap.observe, alternatives, number, tap.per_token, tap.draw.capacity, first,
        tap.end_ms, tap.next_end_ms,
    )  # fmt: skip


@lru_cache(maxsize=1024)
def _shape(*of: object) -> Shape:
    return Shape(*of)  # type: ignore[arg-type]


@lru_cache(maxsize=1024)
def _one(value: T) -> T:
    """The first made of equal values, for all parts to share."""
    return value


def _tap(keys: Keys, draw: Draw, rates: Rates, now_ms: int) -> Tap:
    per_token = 0
    if draw.metric in (Metric.OUTPUT_TOKENS, Metric.TOTAL_TOKENS):
        per_token = 1
    elif draw.metric is Metric.MONEY:
        per_token = rates.output_per_token
    window_ms = start = end = next_end = 0
    next_key = b""
    match draw.window:
        case None:
            kind, key = CONCURRENCY, keys.concurrency(draw.limit_id, draw.subject)
        case Rolling(milliseconds=window_ms):
            kind, key = ROLLING, keys.window(draw.limit_id, draw.subject)
        case Calendar() as calendar:
            kind = PERIOD
            start, end = edges(calendar, now_ms)
            next_end = edges(calendar, end)[1] if end < FOREVER_MS else end
            window_ms = end - start
            key, next_key = (keys.period(draw.limit_id, draw.subject, each) for each in (start, end))
    name, letter = key.decode(), KIND_LETTERS[kind]
    made = Tap(
        draw, kind, letter, draw.metric.value, _AMOUNTS[draw.metric], per_token, name, next_key.decode(), window_ms,
        start, end, next_end, draw.mode is Mode.OBSERVE,
        (draw.limit_id, draw.subject, draw.metric.value, name, letter),
    )  # fmt: skip
    return _one(made) if draw.scope in SHARED else made
