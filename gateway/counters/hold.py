"""What one admission holds, from the moment that it is asked for until Redis took its settlement.

It is told the replies to its own commands and hands them to the reservations, which decide what follows.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Sequence
from typing import Any, Protocol

from gateway.counters.frames import Grant
from gateway.counters.plan import Plan
from gateway.counters.taps import PERIOD, Tap
from gateway.counters.wording import admitted_fields
from gateway.errors import LimitDetail
from gateway.spool.records import Charge


class Home(Protocol):
    """Where replies go."""

    def reserved(self, hold: Hold, reply: Any) -> None:
        """A reservation was answered."""
        ...

    def unanswered(self, hold: Hold) -> None:
        """A reservation was not answered in time."""
        ...

    def came_late(self, hold: Hold, reply: Any) -> None:
        """A reservation that nobody waits for any more was answered, or its fate is unknown (None)."""
        ...


class Hold:
    """One admission; the port `Reservation`, and who asked Redis for it."""

    __slots__ = (
        "admitted_at_ms",
        "asked_output",
        "charges",
        "claim",
        "degraded",
        "epoch",
        "future",
        "granted_output",
        "group_id",
        "home",
        "last_sequence",
        "least_output",
        "local",
        "memory",
        "money",
        "ordinary",
        "parts",
        "plan",
        "positions",
        "prompt_tokens",
        "refusal",
        "request_id",
        "retried",
        "seen",
        "sequence",
        "settled",
        "step",
        "top_up_plan",
    )

    def __init__(
        self,
        home: Home,
        future: Future[Hold],
        plan: Plan,
        request_id: str,
        memory: bytes,
        prompt_tokens: int,
        asked_output: int,
        least_output: int,
        money: int,
        claim: tuple[bytes, bytes] | None,
    ) -> None:
        self.home = home
        self.future: Future[Hold] | None = future
        """Who waits; None once it was answered with this."""
        self.plan = plan
        self.request_id = request_id
        self.memory = memory
        self.prompt_tokens = prompt_tokens
        self.asked_output = asked_output
        self.least_output = least_output
        self.money = money
        self.claim = claim
        self.parts: tuple[Sequence[int], Sequence[int], Sequence[int]] = ((), (), ())
        """Positions, what remains and resets, tap by tap."""
        self.admitted_at_ms = 0
        self.sequence = 0
        self.last_sequence = 0
        """Of the latest grant, top-ups included."""
        self.granted_output = 0
        self.group_id: str | None = None
        self.degraded: str | None = None
        self.charges: list[Charge] = []
        """Those that Redis made; the ones of an admission without Redis are in `local`."""
        self.local: list[Charge] = []
        self.seen: list[int] = []
        """What each draw's counter showed before the admission, -1 where that was not told; empty without Redis."""
        self.ordinary = False
        """The plan's ready-made settlement fits what Redis granted at first: every tap, in the present periods."""
        self.settled = False
        self.refusal: LimitDetail | None = None
        """Which limit refused the last top-up."""
        self.epoch = ""
        self.step = 0
        self.retried = False
        self.top_up_plan: Plan | None = None

    def give(self) -> None:
        """Hand itself to whoever waits. Were the future kept, each admission would leave a cycle of 16 objects behind."""
        future, self.future = self.future, None
        if future is not None:
            future.set_result(self)

    @property
    def fields(self) -> bytes:
        """`x-ratelimit-*` of the tightest limits, `x-weighbridge-reserved`, and `-degraded` where it is; see the port."""
        plan = self.plan
        fields = admitted_fields(plan.frame, *self.parts)
        fields += b"x-weighbridge-reserved: input=%d, output=%d" % (self.prompt_tokens, self.granted_output)
        if plan.frame.money_taps:
            fields += b", nano_usd=%d" % (self.money + plan.rates.output_per_token * self.granted_output)
        if self.degraded is None:
            return fields + b"\r\n"
        return fields + b"\r\nx-weighbridge-degraded: %b\r\n" % self.degraded.encode()

    def granted(self, grant: Grant) -> None:
        """Redis granted it: note what was charged, what the counters showed, and whether the ready-made settlement fits."""
        plan, positions, remaining, output = self.plan, grant.positions, grant.remaining, grant.output
        self.admitted_at_ms = grant.at_ms
        self.sequence = self.last_sequence = grant.sequence
        self.granted_output = output
        self.parts = (positions, remaining, grant.resets)
        base = (0, 1, self.prompt_tokens, self.money)
        at, charges, seen = 0, self.charges, self.seen
        # One pass, and no call for each: this is done for every request.
        for limit_id, subject, metric, key, kind in plan.identities:
            amount_class, per_token, window_ms, capacity = plan.frame.forms[at]
            position = positions[at]
            if position >= 0:
                took = base[amount_class] + per_token * output
                charges.append(Charge(limit_id, subject, metric, key, kind, position, took, 0, window_ms))
                seen.append(capacity - remaining[at] - took)
            else:
                seen.append(-1)
            at += 1
        self.ordinary = len(charges) == at and self.claim is None
        for index, start in plan.frame.periods:
            if positions[index] != start and positions[index] >= 0:
                # A period that has begun since the plan was made: its counter has another key.
                self.charges = self.charges_at(positions, output)
                self.ordinary = False
                break

    def charges_at(self, positions: Sequence[int], output: int) -> list[Charge]:
        """The charges that a grant of `output` tokens made at `positions` (-1: not charged)."""
        base, plan = (0, 1, self.prompt_tokens, self.money), self.plan
        for index, start in plan.frame.periods:
            if positions[index] != start and positions[index] >= 0:
                # A period that has begun since the plan was made.
                return [
                    charge_of(tap, position, base[tap.amount_class] + tap.per_token * output)
                    for tap, position in zip(plan.taps, positions, strict=True)
                    if position >= 0
                ]
        return [
            Charge(*identity, position, base[amount_class] + per_token * output, 0, window_ms)
            for identity, (amount_class, per_token, window_ms, _), position in zip(
                plan.identities, plan.frame.forms, positions, strict=True
            )
            if position >= 0
        ]

    # Asked

    def answered(self, reply: Any) -> None:
        self.home.reserved(self, reply)

    def failed(self) -> None:
        self.home.unanswered(self)

    def late(self, reply: Any) -> None:
        self.home.came_late(self, reply)


def charge_of(tap: Tap, position: int, amount: int) -> Charge:
    """One charge, all of it in `fixed`, so that it can be corrected without knowing its grant."""
    if tap.kind == PERIOD and position != tap.start_ms:
        draw = tap.draw
        return Charge(
            draw.limit_id, draw.subject, tap.metric, tap.next_key, "p", position, amount, 0, tap.window_ms
        )
    return Charge(*tap.identity, position, amount, 0, tap.window_ms)
