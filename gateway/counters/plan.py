"""What a caller's draws on an endpoint become for the script: compiled once, used for every call.

Only the request's id, its estimate and its allowance vary from call to call; the rest is bytes made beforehand. A
plan holds until the snapshot changes or one of its calendar periods ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from gateway.counters.keys import Keys
from gateway.counters.lua import Script, bulk
from policies.budgets import BudgetIndex, Rates, budget_draws, dearest
from policies.catalog import Endpoint, Snapshot
from policies.limits import Draw, LimitIndex, Metric, Mode, applicable
from policies.principal import Caller
from policies.windows import FOREVER_MS, Calendar, Rolling, edges

ROLLING, PERIOD, CONCURRENCY, CLAIM = 1, 2, 3, 4
KIND_LETTERS = {ROLLING: "r", PERIOD: "p", CONCURRENCY: "n", CLAIM: "i"}
KIND_NUMBERS = {letter: number for number, letter in KIND_LETTERS.items()}
_NOTHING, _ONE, _PROMPT, _MONEY = 0, 1, 2, 3
_AMOUNTS = {
    Metric.REQUESTS: _ONE,
    Metric.CONCURRENT_REQUESTS: _ONE,
    Metric.INPUT_TOKENS: _PROMPT,
    Metric.OUTPUT_TOKENS: _NOTHING,
    Metric.TOTAL_TOKENS: _PROMPT,
    Metric.MONEY: _MONEY,
}
_TOKEN_METRICS = (Metric.INPUT_TOKENS, Metric.OUTPUT_TOKENS, Metric.TOTAL_TOKENS)

pack = msgspec.msgpack.Encoder().encode


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


@dataclass(frozen=True, slots=True)
class Plan:
    """All taps of a caller on an endpoint, and the bytes of the call that asks for them."""

    taps: tuple[Tap, ...]
    rates: Rates
    valid_until_ms: int
    head: bytes
    claiming_head: bytes
    """The same with room for one more key, the idempotency claim."""
    blob: bytes
    requests: tuple[int, ...]
    """Positions of the taps that count requests; their tightest shows in the headers."""
    tokens: tuple[int, ...]
    has_money: bool
    has_alternatives: bool = False

    def call(self, memory: bytes, claim: bytes | None, ask: bytes) -> bytes:
        """The bytes of one reservation."""
        if claim is None:
            return b"%b$%d\r\n%b\r\n%b$%d\r\n%b\r\n" % (
                self.head,
                len(memory),
                memory,
                self.blob,
                len(ask),
                ask,
            )
        return b"".join((self.claiming_head, bulk(memory), bulk(claim), self.blob, bulk(ask)))

    def amounts(self, prompt_tokens: int, money: int) -> tuple[int, int, int, int]:
        """What each class of amount comes to, before output."""
        return 0, 1, prompt_tokens, money


@dataclass(frozen=True, slots=True)
class Indexes:
    """One snapshot's limits and budgets, ready to be looked up."""

    snapshot: Snapshot
    limits: LimitIndex
    budgets: BudgetIndex

    @classmethod
    def of(cls, snapshot: Snapshot) -> Indexes:
        """Index a snapshot."""
        return cls(snapshot, LimitIndex.of(snapshot.limits), BudgetIndex.of(snapshot.budgets))


def draws_of(indexes: Indexes, caller: Caller, endpoint: Endpoint, group: str | None = None) -> list[Draw]:
    """Every draw of a call: those that must have room first, then the alternatives."""
    draws = applicable(indexes.limits, indexes.snapshot, caller, endpoint, group)
    if not dearest(endpoint).free:
        draws += budget_draws(indexes.budgets, indexes.snapshot, caller, endpoint, group)
    return sorted(draws, key=lambda draw: draw.alternatives)


def compile_plan(script: Script, keys: Keys, draws: Sequence[Draw], rates: Rates, now_ms: int) -> Plan:
    """Compile draws as of `now_ms`."""
    taps = tuple(_tap(keys, draw, rates, now_ms) for draw in draws)
    key_list = [keys.epoch, keys.sequence, keys.live]
    rows: list[tuple[int | str, ...]] = []
    for tap in taps:
        row: tuple[int | str, ...] = (
            tap.kind, tap.amount_class, tap.per_token, tap.draw.capacity, len(key_list) + 1,
            tap.draw.alternatives, tap.draw.group_id or "", int(tap.observe),
        )  # fmt: skip
        key_list.append(tap.key.encode())
        if tap.kind == ROLLING:
            row += (tap.window_ms,)
        elif tap.kind == PERIOD:
            row += (tap.start_ms, tap.end_ms, tap.next_end_ms)
            key_list.append(tap.next_key.encode())
        rows.append(row)
    shown = [index for index, tap in enumerate(taps) if not tap.observe]
    return Plan(
        taps=taps,
        rates=rates,
        valid_until_ms=min((tap.end_ms for tap in taps if tap.kind == PERIOD), default=FOREVER_MS),
        head=_head(script, key_list, 1),
        claiming_head=_head(script, key_list, 2),
        blob=bulk(pack(rows)),
        requests=tuple(index for index in shown if taps[index].draw.metric is Metric.REQUESTS),
        tokens=tuple(index for index in shown if taps[index].draw.metric in _TOKEN_METRICS),
        has_money=any(tap.draw.metric is Metric.MONEY for tap in taps),
        has_alternatives=any(tap.draw.alternatives for tap in taps),
    )


def narrowed(
    script: Script, keys: Keys, plan: Plan, positions: Sequence[tuple[int, int]], rates: Rates
) -> Plan:
    """A plan for top-ups: only the taps that were charged and that output draws from, each where it was charged.

    `positions` holds (index of the tap, where it was charged). A period stays the period of admission.
    """
    key_list = [keys.epoch, keys.sequence, keys.live]
    rows: list[tuple[int, ...]] = []
    taps: list[Tap] = []
    for index, position in positions:
        tap = plan.taps[index]
        if not tap.per_token:
            continue
        row = (
            tap.kind,
            _NOTHING,
            tap.per_token,
            tap.draw.capacity,
            len(key_list) + 1,
            0,
            0,
            int(tap.observe),
        )
        if tap.kind == ROLLING:
            row += (tap.window_ms,)
            key_list.append(tap.key.encode())
        else:
            key = (tap.key if position == tap.start_ms else tap.next_key).encode()
            row += (position, FOREVER_MS, FOREVER_MS)
            key_list += [key, key]
        rows.append(row)
        taps.append(tap)
    head = _head(script, key_list, 1)
    return Plan(tuple(taps), rates, FOREVER_MS, head, head, bulk(pack(rows)), (), (), False)


def _head(script: Script, key_list: Sequence[bytes], more: int) -> bytes:
    count = len(key_list) + more
    parts = [b"*%d\r\n" % (count + 5), script.by_digest, bulk(b"%d" % count)]
    return b"".join(parts + [bulk(each) for each in key_list])


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
    return Tap(
        draw, kind, KIND_LETTERS[kind], draw.metric.value, _AMOUNTS[draw.metric], per_token, key.decode(),
        next_key.decode(), window_ms, start, end, next_end, draw.mode is Mode.OBSERVE,
    )  # fmt: skip
