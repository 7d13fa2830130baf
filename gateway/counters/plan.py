"""What a caller's draws on an endpoint become for the scripts: compiled once, used for every call.

Only the request's id, its estimate and its allowance vary from call to call; the rest is bytes made beforehand. A
plan holds until the snapshot or the epoch changes or one of its calendar periods ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from gateway.counters.frames import DRAW, entry_layout
from gateway.counters.keys import Keys
from gateway.counters.lua import Scripts, bulk
from policies.budgets import Rates
from policies.limits import SHARED, Draw, Metric, Mode
from policies.limits import charged_group as paying_group
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


@dataclass(frozen=True, slots=True)
class Standpoint:
    """What every call of a worker carries: it changes with the epoch only."""

    scripts: Scripts
    keys: Keys
    epoch: str
    worker_id: str


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
    identity: tuple[str, str, str, str, str]
    """What a Charge begins with: limit, subject, metric, key, kind."""

    def key_at(self, position: int) -> str:
        """The key that was charged at this position."""
        return self.next_key if self.kind == PERIOD and position != self.start_ms else self.key


@dataclass(frozen=True, slots=True)
class Plan:
    """All taps of a caller on an endpoint, and the bytes of the calls for them."""

    taps: tuple[Tap, ...]
    rates: Rates
    epoch: str
    valid_until_ms: int
    head: bytes
    opening: int
    """How much of `head` comes before its keys."""
    claiming_opening: bytes
    """The same where there is one more key, the idempotency claim."""
    arguments: bytes
    requests: tuple[int, ...]
    """Indexes of the taps that count requests; their tightest shows in the headers."""
    tokens: tuple[int, ...]
    money_taps: tuple[int, ...]
    periods: tuple[tuple[int, int], ...]
    """(index, start) of the taps of calendar periods."""
    has_alternatives: bool
    settled: tuple[tuple[int, int, int, int, int, int], ...]
    """What a settlement corrects: (index, kind, window, amount class, per token, which of the used amounts)."""
    settle_head: bytes
    settle_arguments: bytes

    def call(self, memory: bytes, ask: bytes) -> bytes:
        """The bytes of one reservation."""
        return b"%b$%d\r\n%b\r\n%b%b\r\n$0\r\n\r\n" % (self.head, len(memory), memory, self.arguments, ask)

    def claiming_call(self, memory: bytes, ask: bytes, claim: bytes, digest: bytes) -> bytes:
        """The bytes of one reservation that claims an idempotency key."""
        keys = self.claiming_opening + self.head[self.opening :] + bulk(memory) + bulk(claim)
        return b"%b%b%b\r\n%b" % (keys, self.arguments, ask, bulk(digest))

    def settle_call(
        self,
        memory: bytes,
        positions: Sequence[int],
        base: tuple[int, int, int, int],
        output: int,
        used: tuple[int, int, int],
    ) -> bytes:
        """The bytes of an ordinary settlement: one grant, every tap charged, each period the present one."""
        prompt, completion, cost = used
        actual = (0, prompt, completion, prompt + completion, cost)
        numbers: list[int] = []
        for index, kind, window_ms, amount_class, per_token, which in self.settled:
            delta = actual[which] - base[amount_class] - per_token * output
            numbers += (kind, positions[index], window_ms, delta)
        entries = entry_layout(len(self.settled)).pack(*numbers)
        return b"%b$%d\r\n%b\r\n%b%b\r\n" % (
            self.settle_head,
            len(memory),
            memory,
            self.settle_arguments,
            entries,
        )


def compile_plan(standpoint: Standpoint, draws: Sequence[Draw], rates: Rates, now_ms: int) -> Plan:
    """Compile draws as of `now_ms`."""
    taps = [_tap(standpoint.keys, draw, rates, now_ms) for draw in draws]
    rows: list[bytes] = []
    group, number = None, 0
    for tap in taps:
        if tap.draw.group_id != group:
            group, number = tap.draw.group_id, number + 1
        rows.append(_row(tap, tap.amount_class, tap.draw.alternatives, number))
    return _plan(standpoint, taps, rows, rates)


def lasts(kind: str, window_ms: int) -> bool:
    """Whether what a dead worker took of such a counter would stay there for long: a hold is kept of it.

    Counts of requests are not asked for: a settlement lets them stand.
    """
    return kind in ("p", "i") or (kind == "r" and window_ms >= LASTING_MS)


def narrowed(standpoint: Standpoint, plan: Plan, positions: Sequence[int]) -> Plan:
    """A plan for top-ups: only the taps that were charged and that output draws from, each where it was charged.

    A period stays the period of admission, and the group that was charged stays the one that is.
    """
    taps: list[Tap] = []
    rows: list[bytes] = []
    for tap, position in zip(plan.taps, positions, strict=True):
        if position < 0 or not tap.per_token:
            continue
        taps.append(tap)
        if tap.kind == PERIOD:
            row = (PERIOD, NOTHING, tap.observe, 0, 0, tap.per_token, tap.draw.capacity)
            rows.append(DRAW.pack(*row, position, FOREVER_MS, FOREVER_MS))
        else:
            rows.append(_row(tap, NOTHING, 0, 0))
    keyed = {id(tap): tap.key_at(position) for tap, position in zip(plan.taps, positions, strict=True)}
    return _plan(standpoint, taps, rows, plan.rates, keyed)


def charged_group(plan: Plan, positions: Sequence[int]) -> str | None:
    """The group that is charged, of the taps that were."""
    return paying_group(tap.draw for tap, position in zip(plan.taps, positions, strict=True) if position >= 0)


def _plan(
    standpoint: Standpoint,
    taps: Sequence[Tap],
    rows: Sequence[bytes],
    rates: Rates,
    keyed: dict[int, str] | None = None,
) -> Plan:
    scripts, keys = standpoint.scripts, standpoint.keys
    held = keys.holds(standpoint.epoch, standpoint.worker_id)
    names = [keys.epoch, keys.sequence, keys.live, held]
    for tap in taps:
        names.append((keyed[id(tap)] if keyed else tap.key).encode())
        if tap.kind == PERIOD:
            names.append((keyed[id(tap)] if keyed else tap.next_key).encode())
    epoch, worker = bulk(standpoint.epoch.encode()), bulk(standpoint.worker_id.encode())
    settled = tuple(
        (index, tap.kind, tap.window_ms, tap.amount_class, tap.per_token, _ACTUALS.get(tap.draw.metric, 0))
        for index, tap in enumerate(taps)
        if tap.draw.metric is not Metric.REQUESTS
    )
    shown = [index for index, tap in enumerate(taps) if not tap.observe]
    # As in the script: where nothing lasts, no hold is kept that a settlement would have to end.
    lasting = any(lasts(KIND_LETTERS[kind], window_ms) for _, kind, window_ms, *_ in settled)
    corrected = [keys.epoch, held, *(taps[each[0]].key.encode() for each in settled)]
    opening = _opening(scripts.reserve.by_digest, len(names) + 1, 5)
    return Plan(
        taps=tuple(taps),
        rates=rates,
        epoch=standpoint.epoch,
        valid_until_ms=min((tap.end_ms for tap in taps if tap.kind == PERIOD), default=FOREVER_MS),
        head=b"".join([opening, *(bulk(each) for each in names)]),
        opening=len(opening),
        claiming_opening=_one(_opening(scripts.reserve.by_digest, len(names) + 2, 5)),
        arguments=_one(epoch + worker + bulk(b"".join(rows)) + b"$40\r\n"),
        requests=_one(tuple(index for index in shown if taps[index].draw.metric is Metric.REQUESTS)),
        tokens=_one(tuple(index for index in shown if taps[index].draw.metric in _TOKEN_METRICS)),
        money_taps=_one(tuple(index for index, tap in enumerate(taps) if tap.draw.metric is Metric.MONEY)),
        periods=_one(tuple((index, tap.start_ms) for index, tap in enumerate(taps) if tap.kind == PERIOD)),
        has_alternatives=any(tap.draw.alternatives for tap in taps),
        settled=_one(settled),
        settle_head=b"".join(
            [
                _opening(scripts.settle.by_digest, len(corrected) + 1, 4),
                *(bulk(each) for each in corrected),
            ]
        ),
        settle_arguments=_one(
            epoch + worker + bulk(b"0" if lasting else b"3") + b"$%d\r\n" % entry_layout(len(settled)).size,
        ),
    )


def _opening(by_digest: bytes, keys: int, arguments: int) -> bytes:
    return b"".join([b"*%d\r\n" % (3 + keys + arguments), by_digest, bulk(b"%d" % keys)])


@lru_cache(maxsize=1024)
def _one(value: T) -> T:
    """The first made of equal values, for all plans to share: a plan takes 3.7 KB so, and 6.3 without."""
    return value


def _row(tap: Tap, amount_class: int, alternatives: int, number: int) -> bytes:
    first = tap.window_ms if tap.kind == ROLLING else tap.start_ms
    return DRAW.pack(
        tap.kind, amount_class, tap.observe, alternatives, number, tap.per_token, tap.draw.capacity, first,
        tap.end_ms, tap.next_end_ms,
    )  # fmt: skip


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
