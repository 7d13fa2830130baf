"""The scripts on a real Redis agree with the plain Python model, whatever is asked in whatever order."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    multiple,
    rule,
    run_state_machine_as_test,
)

from gateway.counters.corrections import corrections
from gateway.counters.frames import ASK, GRANTED, REFUSED, TIME, entries_of, grant_of
from gateway.counters.hold import Hold
from gateway.counters.plan import Plan, compile_plan, narrowed
from gateway.counters.releases import top_up_charges
from gateway.counters.reservations import Reservations
from policies.budgets import Budget
from policies.catalog import Price
from policies.draws import Indexes, draws_of
from policies.limits import Draw, Metric, Mode, ScopeKind
from policies.windows import MINUTE, SECOND, Calendar, Rolling, Unit
from tests.counters.conftest import World, caller_of, endpoint_of, limit_of, new_id
from tests.counters.model import Counters, Granted

_PRICE = Price("p", input=3_000_000, cache_read=1_000_000, output=7_000_000, per_request=5)
_LIMITS = (
    limit_of(Metric.REQUESTS, 12, SECOND, ScopeKind.ENDPOINT),
    limit_of(Metric.TOTAL_TOKENS, 900, SECOND),
    limit_of(Metric.INPUT_TOKENS, 2000, Rolling(2000)),
    limit_of(Metric.OUTPUT_TOKENS, 700, SECOND, ScopeKind.GROUP, "g1"),
    limit_of(Metric.OUTPUT_TOKENS, 500, SECOND, ScopeKind.GROUP_DEFAULT),
    limit_of(Metric.REQUESTS, 6, SECOND, ScopeKind.GROUP, "g2"),
    limit_of(Metric.REQUESTS, 30, MINUTE, ScopeKind.GROUP, "g2"),
    limit_of(Metric.CONCURRENT_REQUESTS, 5),
    limit_of(Metric.TOTAL_TOKENS, 300, SECOND, ScopeKind.ENDPOINT, mode=Mode.OBSERVE),
    limit_of(Metric.TOTAL_TOKENS, 50_000, Calendar(Unit.DAY, "Pacific/Chatham")),
)
_BUDGETS = (
    Budget("b-all", ScopeKind.DEPLOYMENT, Calendar(Unit.MONTH), 90_000),
    Budget("b-g1", ScopeKind.GROUP, Calendar(Unit.WEEK, "Europe/Berlin"), 9_000, "g1"),
    Budget("b-g", ScopeKind.GROUP_DEFAULT, Calendar(Unit.ONCE), 60_000),
)
_CALLERS = (caller_of("ann", ("g1", "g2")), caller_of("bob"), caller_of("eve", ("g2", "g3")))


class _Admission:
    def __init__(self, hold: Hold, draws: list[Draw], granted: Granted, memory: bytes) -> None:
        self.hold, self.draws, self.memory = hold, draws, memory
        self.grants = [granted.charged]
        self.step = 0


class Agreement(RuleBasedStateMachine):
    """Every rule asks the script first, then the model at the script's time, and compares."""

    admissions = Bundle("admissions")
    loop: asyncio.AbstractEventLoop
    worker: Reservations
    serial = 0

    @initialize()
    def begin(self) -> None:
        # A deployment of its own for each run: no counter is seen twice.
        type(self).serial += 1
        self.model = Counters()
        self.world = World(limits=_LIMITS, budgets=_BUDGETS, endpoint=endpoint_of(_PRICE))
        self.indexes = Indexes.of(self.world.snapshot)
        self.worker = self.loop.run_until_complete(
            Reservations.connect(self.url, "w1", deployment=f"agree{self.serial}", timeout_seconds=5.0)
        )

    url = ""

    def teardown(self) -> None:
        self.loop.run_until_complete(self.worker.close())

    def ask(self, call: bytes) -> Any:
        reply = self.loop.run_until_complete(self.worker.link.connection.ask(call))
        assert isinstance(reply, bytes)
        return reply

    @rule(
        target=admissions,
        who=st.sampled_from(_CALLERS),
        prompt=st.integers(0, 300),
        output=st.integers(0, 400),
        share=st.sampled_from([0.1, 1.0]),
        group=st.sampled_from([None, None, "g2"]),
    )
    def reserve(self, who: Any, prompt: int, output: int, share: float, group: str | None) -> Any:
        draws = draws_of(self.indexes, who, self.world.endpoint, group)
        least = int(output * share)
        worker = self.worker
        rates_plan = worker._plans.find(self.world.snapshot, who, self.world.endpoint, group)
        plan: Plan = compile_plan(worker._plans.standpoint, draws, rates_plan.rates, worker.link.now_ms())
        money = plan.rates.fixed(prompt)
        request = new_id()
        memory = worker._memory_prefix + request.encode()
        call = plan.call(memory, ASK.pack(0, output, least, prompt, money))
        reply = self.ask(call)
        now = TIME.unpack_from(reply, 1)[0]
        expected = self.model.reserve(draws, now, output, least, prompt, money, plan.rates.output_per_token)
        if not isinstance(expected, Granted):
            assert reply[0] == REFUSED
            return multiple()
        assert reply[0] == GRANTED, reply[0]
        grant = grant_of(reply)
        assert grant.output == expected.output
        assert {i: p for i, p in enumerate(grant.positions) if p >= 0} == {
            index: position for index, (position, _) in expected.charged.items()
        }
        for index in expected.charged:
            assert grant.remaining[index] == draws[index].capacity - self.model.used(draws[index], now)
        # Repeating a reservation gives the same reply and charges nothing.
        assert self.ask(call) == reply
        hold = Hold(
            worker, self.loop.create_future(), plan, request, memory, prompt, output, least, money, None
        )
        hold.charges = hold.charges_at(grant.positions, grant.output)
        hold.granted_output = grant.output
        hold.parts = (grant.positions, grant.remaining, grant.resets)
        assert [charge.fixed for charge in hold.charges] == [
            amount for _, (_, amount) in sorted(expected.charged.items())
        ]
        return _Admission(hold, draws, expected, memory)

    @rule(admission=admissions, output=st.integers(1, 300))
    def top_up(self, admission: _Admission, output: int) -> None:
        hold = admission.hold
        plan = narrowed(self.worker._plans.standpoint, hold.plan, hold.parts[0])
        admission.step += 1
        reply = self.ask(plan.call(admission.memory, ASK.pack(admission.step, output, 1, 0, 0)))
        now = TIME.unpack_from(reply, 1)[0]
        draws = [tap.draw for tap in plan.taps]
        chosen = [
            index
            for index, draw in enumerate(admission.draws)
            if draw in draws and index in admission.grants[0]
        ]
        flat = [self._all_of(admission.draws[index]) for index in chosen]
        expected = self.model.reserve(flat, now, output, 1, 0, 0, plan.rates.output_per_token)
        if not isinstance(expected, Granted):
            assert reply[0] == REFUSED
            return
        assert reply[0] == GRANTED
        grant = grant_of(reply)
        assert grant.output == expected.output
        admission.grants.append({chosen[index]: what for index, what in expected.charged.items()})
        hold.charges += top_up_charges(plan, grant.positions, grant.output)

    @staticmethod
    def _all_of(draw: Draw) -> Draw:
        return Draw(
            draw.limit_id, draw.scope, draw.subject, draw.owner, draw.name, draw.metric, draw.window,
            draw.capacity, draw.mode, 0, None,
        )  # fmt: skip

    @rule(
        admission=consumes(admissions),
        prompt=st.integers(0, 400),
        completion=st.integers(0, 800),
        cost=st.integers(0, 9000),
    )
    def settle(self, admission: _Admission, prompt: int, completion: int, cost: int) -> None:
        keys, entries = corrections(admission.hold.charges, prompt, completion, cost)
        link = self.worker.link
        holds = link.keys.holds(link.epoch, link.worker_id)
        names = [link.keys.epoch, holds, *(key.encode() for key in keys), admission.memory]
        call = link.scripts.settle.call(names, [link.epoch.encode(), b"w1", b"0", entries_of(entries)])
        reply = self.ask(call)
        now = TIME.unpack_from(reply, 1)[0]
        assert reply[0] == 1
        assert self.ask(call)[0] == 1  # once more changes nothing
        for index, draw in enumerate(admission.draws):
            grants = [grant[index] for grant in admission.grants if index in grant]
            if not grants or draw.metric is Metric.REQUESTS:
                continue
            actual = {
                Metric.INPUT_TOKENS: prompt,
                Metric.OUTPUT_TOKENS: completion,
                Metric.TOTAL_TOKENS: prompt + completion,
                Metric.MONEY: cost,
                Metric.CONCURRENT_REQUESTS: 0,
            }[draw.metric]
            delta = actual - sum(amount for _, amount in grants)
            if delta > 0:
                self.model.correct(draw, now, grants[-1][0], delta)
            for position, amount in reversed(grants):
                back = min(amount, max(0, -delta))
                self.model.correct(draw, now, position, -back)
                delta += back

    @rule(ms=st.sampled_from([1, 17, 40, 120, 350]))
    def wait(self, ms: int) -> None:
        time.sleep(ms / 1000)


def test_scripts_and_model_agree(redis_url: str) -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        Agreement.loop, Agreement.url = loop, redis_url
        run_state_machine_as_test(
            Agreement,
            settings=settings(
                max_examples=25,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
    finally:
        asyncio.set_event_loop(None)
        loop.close()
