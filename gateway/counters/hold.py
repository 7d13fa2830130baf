"""What one admission holds, from the moment that it is asked for until Redis took its settlement.

It is told the replies to its own commands and hands them to the reservations, which decide what follows.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Sequence
from typing import Any, Protocol

from gateway.counters.plan import Plan
from gateway.counters.taps import PERIOD, Tap
from gateway.counters.wording import admitted_headers
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
        "headers",
        "home",
        "last_sequence",
        "least_output",
        "local",
        "memory",
        "money",
        "parts",
        "plan",
        "positions",
        "prompt_tokens",
        "refusal",
        "request_id",
        "retried",
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
        self.settled = False
        self.refusal: LimitDetail | None = None
        """Which limit refused the last top-up."""
        self.epoch = ""
        self.step = 0
        self.retried = False
        self.top_up_plan: Plan | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        """`x-ratelimit-*` of the tightest limits, `x-weighbridge-reserved`, and `-degraded` where it is."""

    def give(self) -> None:
        """Hand itself to whoever waits. Were the future kept, each admission would leave a cycle of 16 objects behind."""
        future, self.future = self.future, None
        if future is not None:
            future.set_result(self)

    def write_headers(self) -> None:
        """Make the headers of a grant that is complete."""
        self.headers = admitted_headers(self.plan, *self.parts)
        reserved = b"input=%d, output=%d" % (self.prompt_tokens, self.granted_output)
        if self.plan.frame.money_taps:
            cost = self.money + self.plan.rates.output_per_token * self.granted_output
            reserved += b", nano_usd=%d" % cost
        self.headers.append((b"x-weighbridge-reserved", reserved))
        if self.degraded is not None:
            self.headers.append((b"x-weighbridge-degraded", self.degraded.encode()))

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

    @property
    def seen(self) -> list[int]:
        """What each draw's counter showed before the admission, -1 where that was not told; empty without Redis."""
        if self.degraded is not None:
            return []
        base, output = (0, 1, self.prompt_tokens, self.money), self.granted_output
        return [
            capacity - left - base[amount_class] - per_token * output if position >= 0 else -1
            for (amount_class, per_token, _, capacity), position, left in zip(
                self.plan.frame.forms, self.parts[0], self.parts[1], strict=True
            )
        ]

    @property
    def ordinary(self) -> bool:
        """Whether the plan's ready-made settlement fits: one grant by Redis, of every tap, in the present periods."""
        plan, positions = self.plan, self.parts[0]
        if self.local or self.claim is not None or len(self.charges) != len(plan.identities):
            return False
        for index, start in plan.frame.periods:  # noqa: SIM110 - a generator is two calls more, for every request
            if positions[index] != start:
                return False
        return True

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
