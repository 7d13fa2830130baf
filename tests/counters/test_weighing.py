"""The decision as a pure function is the script's decision: grants, positions, what is left, who refuses, and for how long."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis.stateful import initialize, run_state_machine_as_test

from gateway.counters.frames import REFUSAL, REFUSED
from policies.budgets import Rates
from policies.levels import Levels
from policies.limits import Draw
from policies.weighing import Ask, Short, weigh
from tests.counters.model import Granted
from tests.counters.test_agreement import Agreement


class _Policies:
    """The policies in the model's place; of a refusal they are compared with the script's own words."""

    def __init__(self, machine: Weighing) -> None:
        self.machine = machine
        self.levels = Levels()

    def used(self, draw: Draw, now_ms: int) -> int:
        return self.levels.used(draw, now_ms)

    def reserve(
        self, draws: list[Draw], now_ms: int, asked: int, least: int, prompt: int, money: int, per_token: int
    ) -> Granted | int:
        rates = Rates(0, per_token, money)
        decided = weigh(draws, self.levels, now_ms, Ask(prompt, asked, least), rates)
        if isinstance(decided, Short):
            reply = self.machine.said
            assert reply[0] == REFUSED
            _, index, left, wait, _ = REFUSAL.unpack_from(reply, 1)
            assert (decided.index, decided.wait_ms) == (index, wait)
            assert left == max(0, draws[index].capacity - self.levels.used(draws[index], now_ms))
            return decided.index
        charged: dict[int, tuple[int, int]] = {}
        for index, amount in decided.charges:
            # A top-up draws nothing but its output.
            charged[index] = (self.levels.charge(draws[index], now_ms, amount), amount)
        return Granted(decided.output, charged)

    def correct(self, draw: Draw, now_ms: int, position: int, delta: int) -> None:
        self.levels.correct(draw, now_ms, position, delta)


class Weighing(Agreement):
    """The same walk, held against the policies."""

    said: Any = b""

    @initialize()
    def begin(self) -> None:
        super().begin()
        self.model = _Policies(self)  # type: ignore[assignment]

    def ask(self, call: bytes) -> Any:
        self.said = super().ask(call)
        return self.said


def test_the_script_decides_as_the_policies_do(redis_url: str) -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        Weighing.loop, Weighing.url = loop, redis_url
        run_state_machine_as_test(
            Weighing,
            settings=settings(
                max_examples=8,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
    finally:
        asyncio.set_event_loop(None)
        loop.close()
