"""What a caller's draws on an endpoint become for the scripts: joined of parts made once, used for every call.

Only the request's id, its estimate and its allowance vary from call to call; the rest is bytes made beforehand. A
plan holds until the snapshot or the epoch changes or one of its calendar periods ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import Struct

from gateway.counters.frames import DRAW, entry_layout
from gateway.counters.keys import Keys
from gateway.counters.lua import Scripts, bulk
from gateway.counters.taps import (
    NOTHING,
    PERIOD,
    Form,
    Identity,
    Part,
    Settled,
    Shape,
    Tap,
    assembled,
    part_of,
    row_of,
)
from policies.budgets import Rates
from policies.limits import Draw
from policies.limits import charged_group as paying_group
from policies.windows import FOREVER_MS

_MOST = 1_024
"""Frames that are remembered: as many as there are forms of plans, which are few; custom amounts make more."""


@dataclass(frozen=True, slots=True)
class Standpoint:
    """What every call of a worker carries: it changes with the epoch only."""

    scripts: Scripts
    keys: Keys
    epoch: str
    worker_id: str


class Frame(Struct, frozen=True, gc=False, eq=False):
    """What all plans of parts of the same shapes have in common."""

    head: bytes
    """Of a reservation, up to the counters' keys."""
    claiming_head: bytes
    """The same where there is one more key, the idempotency claim."""
    arguments: bytes
    settle_head: bytes
    settle_arguments: bytes
    forms: tuple[Form, ...]
    requests: tuple[int, ...]
    """Indexes of the taps that count requests; their tightest shows in the headers."""
    tokens: tuple[int, ...]
    money_taps: tuple[int, ...]
    periods: tuple[tuple[int, int], ...]
    """(index, start) of the taps of calendar periods."""
    has_alternatives: bool
    settled: tuple[Settled, ...]
    valid_until_ms: int


class Plan(Struct, frozen=True, gc=False, eq=False):
    """All taps of a caller on an endpoint, and the bytes of the calls for them."""

    frame: Frame
    rates: Rates
    epoch: str
    parts: tuple[Part, ...]
    identities: tuple[Identity, ...]
    """Of the taps."""
    keys: bytes
    more_keys: bytes
    settled_keys: bytes
    more_settled_keys: bytes

    @property
    def taps(self) -> tuple[Tap, ...]:
        """For what is rare: refusals, top-ups, deciding without Redis."""
        return tuple([tap for each in self.parts for tap in each.taps])

    def key_at(self, index: int, position: int) -> str:
        """The key of the tap that was charged at this position."""
        for each, start in self.frame.periods:
            if each == index and position != start:
                return self.taps[index].next_key
        return self.identities[index][3]

    def call(self, memory: bytes, ask: bytes) -> bytes:
        """The bytes of one reservation."""
        frame = self.frame
        return b"%b%b%b$%d\r\n%b\r\n%b%b\r\n$0\r\n\r\n" % (
            frame.head,
            self.keys,
            self.more_keys,
            len(memory),
            memory,
            frame.arguments,
            ask,
        )

    def claiming_call(self, memory: bytes, ask: bytes, claim: bytes, digest: bytes) -> bytes:
        """The bytes of one reservation that claims an idempotency key."""
        keys = self.keys + self.more_keys + bulk(memory) + bulk(claim)
        return b"%b%b%b%b\r\n%b" % (
            self.frame.claiming_head,
            keys,
            self.frame.arguments,
            ask,
            bulk(digest),
        )

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
        frame = self.frame
        numbers: list[int] = []
        for index, kind, window_ms, amount_class, per_token, which in frame.settled:
            delta = actual[which] - base[amount_class] - per_token * output
            numbers += (kind, positions[index], window_ms, delta)
        entries = entry_layout(len(frame.settled)).pack(*numbers)
        return b"%b%b%b$%d\r\n%b\r\n%b%b\r\n" % (
            frame.settle_head,
            self.settled_keys,
            self.more_settled_keys,
            len(memory),
            memory,
            frame.settle_arguments,
            entries,
        )


class Joiner:
    """Joins parts to plans, without work for each of their rules."""

    def __init__(self, standpoint: Standpoint) -> None:
        self.standpoint = standpoint
        keys, epoch = standpoint.keys, standpoint.epoch
        held = bulk(keys.holds(epoch, standpoint.worker_id))
        self._common = bulk(keys.epoch) + bulk(keys.sequence) + bulk(keys.live) + held
        self._settled_common = bulk(keys.epoch) + held
        self._who = bulk(epoch.encode()) + bulk(standpoint.worker_id.encode())
        self._frames: dict[tuple[Shape, ...], Frame] = {}

    def join(self, rates: Rates, *parts: Part) -> Plan:
        """The plan of these parts, one after the other."""
        if len(parts) == 2:
            # Nearly all plans: their bytes stay with their parts, and nothing is copied.
            one, other = parts
            frame = self._frames.get((one.shape, other.shape)) or self._framed(parts)
            return Plan(
                frame, rates, self.standpoint.epoch, parts, one.identities + other.identities,
                one.keys, other.keys, one.settled_keys, other.settled_keys,
            )  # fmt: skip
        return Plan(
            self._frames.get(tuple([each.shape for each in parts])) or self._framed(parts),
            rates,
            self.standpoint.epoch,
            parts,
            tuple([name for each in parts for name in each.identities]),
            b"".join([each.keys for each in parts]),
            b"",
            b"".join([each.settled_keys for each in parts]),
            b"",
        )

    def _framed(self, parts: Sequence[Part]) -> Frame:
        if len(self._frames) >= _MOST:
            del self._frames[next(iter(self._frames))]
        shapes = tuple([each.shape for each in parts])
        frame = self._frames[shapes] = self._frame(shapes)
        return frame

    def _frame(self, shapes: Sequence[Shape]) -> Frame:
        starts: list[int] = []
        taps = keys = 0
        for each in shapes:
            starts.append(taps)
            taps, keys = taps + len(each.forms), keys + each.keys
        at = list(zip(starts, shapes, strict=True))
        settled = tuple(
            (start + index, kind, window_ms, amount_class, per_token, which)
            for start, each in at
            for index, kind, window_ms, amount_class, per_token, which in each.settled
        )
        reserve, settle = self.standpoint.scripts.reserve.by_digest, self.standpoint.scripts.settle.by_digest
        lasting = any(each.lasting for each in shapes)
        rows = b"".join([each.rows for each in shapes])
        size = entry_layout(len(settled)).size
        return Frame(
            # Four keys that all have, those of the counters, the request's own.
            head=_opening(reserve, 4 + keys + 1, 5) + self._common,
            claiming_head=_opening(reserve, 4 + keys + 2, 5) + self._common,
            arguments=self._who + bulk(rows) + b"$40\r\n",
            settle_head=_opening(settle, 2 + len(settled) + 1, 4) + self._settled_common,
            settle_arguments=self._who + bulk(b"0" if lasting else b"3") + b"$%d\r\n" % size,
            forms=tuple(form for each in shapes for form in each.forms),
            requests=tuple(start + index for start, each in at for index in each.requests),
            tokens=tuple(start + index for start, each in at for index in each.tokens),
            money_taps=tuple(start + index for start, each in at for index in each.money_taps),
            periods=tuple((start + index, begun) for start, each in at for index, begun in each.periods),
            has_alternatives=any(each.has_alternatives for each in shapes),
            settled=settled,
            valid_until_ms=min(each.valid_until_ms for each in shapes),
        )


def compile_plan(standpoint: Standpoint, draws: Sequence[Draw], rates: Rates, now_ms: int) -> Plan:
    """A plan of draws that are in order, as of `now_ms`, in one piece."""
    return Joiner(standpoint).join(rates, part_of(standpoint.keys, draws, rates, now_ms))


def narrowed(standpoint: Standpoint, plan: Plan, positions: Sequence[int]) -> Plan:
    """A plan for top-ups: only the taps that were charged and that output draws from, each where it was charged.

    A period stays the period of admission, and the group that was charged stays the one that is.
    """
    taps: list[Tap] = []
    rows: list[bytes] = []
    named: list[tuple[str, ...]] = []
    for tap, position in zip(plan.taps, positions, strict=True):
        if position < 0 or not tap.per_token:
            continue
        taps.append(tap)
        key = tap.key_at(position)
        if tap.kind == PERIOD:
            row = (PERIOD, NOTHING, tap.observe, 0, 0, tap.per_token, tap.draw.capacity)
            rows.append(DRAW.pack(*row, position, FOREVER_MS, FOREVER_MS))
            named.append((key, key))
        else:
            rows.append(row_of(tap, NOTHING, 0, 0))
            named.append((key,))
    return Joiner(standpoint).join(plan.rates, assembled(taps, rows, named))


def charged_group(plan: Plan, positions: Sequence[int]) -> str | None:
    """The group that is charged, of the taps that were."""
    return paying_group(tap.draw for tap, position in zip(plan.taps, positions, strict=True) if position >= 0)


def _opening(by_digest: bytes, keys: int, arguments: int) -> bytes:
    return b"".join([b"*%d\r\n" % (3 + keys + arguments), by_digest, bulk(b"%d" % keys)])
