"""Answers that are lost or come late, a Redis that is wiped or comes back as another's, a ledger that trails: at rest the
counter of a budget is the ledger's sum, to the nano-dollar.

Real scripts on a real Redis, real workers; the ledger is a list, so that it can trail just as a step says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from redis.asyncio import Redis

from gateway.counters.hold import Hold
from gateway.counters.rebuild import Question, Rebuild, Sum
from gateway.counters.reservations import Reservations
from gateway.counters.settler import CounterSettler
from gateway.spool.books import EVERYTHING
from gateway.spool.records import Charge
from policies.budgets import Budget
from policies.catalog import Price
from policies.limits import ScopeKind
from policies.windows import Calendar, Unit, edges
from tests.counters.conftest import World, endpoint_of
from tests.counters.stores import serials

BUDGET = Budget("purse", ScopeKind.DEPLOYMENT, Calendar(Unit.ONCE), 10**12)
FATES = ("answered", "answered", "late", "answer lost", "never sent")


@dataclass
class Ledger:
    """What the workers wrote into their spools, and how much of each is posted; the ports LedgerSums and LedgerView."""

    written: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    """Costs of a worker's settlements, in the order of their numbers."""
    orphans: dict[str, int] = field(default_factory=dict[str, int])
    """What those cost which a dead worker left open."""
    posted: dict[str, int] = field(default_factory=dict[str, int])
    away: bool = False
    """Whether the drainer posts nothing for the next rebuild."""
    during: Any = None
    """What happens in the middle of the next rebuild."""

    def settled(self, worker: str, cost: int) -> int:
        """Write a settlement; its number."""
        rows = self.written.setdefault(worker, [])
        rows.append(cost)
        return len(rows)

    def post(self) -> None:
        """Post all that is written, as the drainer does."""
        self.posted = {worker: len(rows) for worker, rows in self.written.items()}

    @property
    def total(self) -> int:
        """All that is posted."""
        rows = sum(sum(self.written[worker][:count]) for worker, count in self.posted.items())
        return rows + sum(self.orphans.values())

    @asynccontextmanager
    async def alone(self) -> AsyncGenerator[Ledger]:
        async with self._turn:
            yield self

    async def drained(self, until_ms: int, seconds: float) -> bool:
        if self.away:
            self.away = False
            return False
        self.post()
        return True

    @asynccontextmanager
    async def view(self) -> AsyncGenerator[Ledger]:
        yield Ledger(
            {worker: list(rows) for worker, rows in self.written.items()},
            dict(self.orphans),
            dict(self.posted),
        )
        if self.during is not None:
            during, self.during = self.during, None
            await during()

    async def ask(self, question: Question) -> Sequence[Sum]:
        return [Sum("", 0, self.total)] if self.total else []

    async def cuts(self) -> Mapping[str, int]:
        return {**self.posted, **dict.fromkeys(self.orphans, EVERYTHING)}

    async def earlier(self, budgets: Iterable[Budget], now_ms: int) -> Mapping[str, Mapping[str, int]]:
        return {}

    def __post_init__(self) -> None:
        self._turn = asyncio.Lock()


class Wire:
    """What becomes of a worker's next command."""

    def __init__(self, worker: Reservations) -> None:
        self.connection: Any = worker.link.connection

    async def carry(self, fate: str, done: asyncio.Future[Any] | None = None) -> None:
        """Let what was just asked meet its fate, and wait for what comes of it."""
        if not self.connection.ready:
            fate = "answered"
        getattr(self, f"_{fate.replace(' ', '_')}")()
        async with asyncio.timeout(10):
            if done is not None:
                await asyncio.wait([done])
            else:
                await asyncio.sleep(0.002)
            while hasattr(self, "_held"):
                await asyncio.sleep(0.001)

    def _answered(self) -> None:
        pass

    def _never_sent(self) -> None:
        self.connection.drop()
        self.connection._out.clear()

    def _answer_lost(self) -> None:
        connection = self.connection
        connection.data_received = self._cut

    def _cut(self, data: bytes) -> None:
        self.connection.__dict__.pop("data_received", None)
        self.connection.drop()

    def _late(self) -> None:
        connection = self.connection
        self._held: list[bytes] = []
        usual, connection._timeout = connection._timeout, 0.0
        connection.data_received = self._held.append

        def deliver() -> None:
            connection._timeout = usual
            connection.__dict__.pop("data_received", None)
            held = self.__dict__.pop("_held")
            if connection._transport is not None:
                for data in held:
                    connection.data_received(data)

        def give_up() -> None:
            if connection._timer is not None:
                connection._timer.cancel()
            connection._look(True)

        loop = asyncio.get_running_loop()
        loop.call_later(0.006, give_up)
        loop.call_later(0.012, deliver)


class Interleavings(RuleBasedStateMachine):
    """Each step does one thing to two workers of one budget; at the end everything comes to rest."""

    loop: asyncio.AbstractEventLoop
    url: str

    @initialize()
    def begin(self) -> None:
        self.deployment = f"between{next(serials)}"
        self.world = World(budgets=(BUDGET,), endpoint=endpoint_of(Price("p", output=1_000_000)))
        self.loop.run_until_complete(self._begin())

    async def _begin(self) -> None:
        self.redis = Redis.from_url(self.url)
        await self.redis.flushall()
        self.ledger = Ledger()
        self.rebuild = Rebuild(self.url, self.ledger, lambda: self.world.snapshot)
        self.workers = [await self.join() for _ in range(2)]
        self.running: list[tuple[Reservations, Hold]] = []
        self.settler = CounterSettler(self.url, deployment=self.deployment, timeout_seconds=5.0)
        await self.settler.start()
        await asyncio.wait_for(self.settler._ready.wait(), 10)

    async def join(self) -> Reservations:
        return await Reservations.connect(
            self.url, f"w{next(serials)}", deployment=self.deployment, opener=self.rebuild,
            timeout_seconds=2.0, wait_seconds=20.0,
        )  # fmt: skip

    # what happens

    @rule(number=st.integers(0, 1), output=st.integers(1, 50), fate=st.sampled_from(FATES))
    def reserve(self, number: int, output: int, fate: str) -> None:
        async def do() -> None:
            worker = self.workers[number]
            asked = self.world.reserve(worker, 0, output)
            await Wire(worker).carry(fate, asked)
            self.running.append((worker, asked.result()))

        self.loop.run_until_complete(do())

    @precondition(lambda self: self.running)
    @rule(data=st.data(), output=st.integers(1, 50), fate=st.sampled_from(FATES))
    def top_up(self, data: st.DataObject, output: int, fate: str) -> None:
        worker, hold = data.draw(st.sampled_from(self.running))

        async def do() -> None:
            asked = worker.top_up(hold, output)
            await Wire(worker).carry(fate, asked)

        self.loop.run_until_complete(do())

    @precondition(lambda self: self.running)
    @rule(data=st.data(), cost=st.integers(0, 80), fate=st.sampled_from(FATES))
    def settle(self, data: st.DataObject, cost: int, fate: str) -> None:
        worker, hold = data.draw(st.sampled_from(self.running))
        self.running.remove((worker, hold))

        async def do() -> None:
            number = self.ledger.settled(worker.link.worker_id, cost)
            worker.settle(hold, prompt_tokens=0, completion_tokens=cost, cost_nano_usd=cost, number=number)
            await Wire(worker).carry(fate)

        self.loop.run_until_complete(do())

    @rule(number=st.integers(0, 1), output=st.integers(1, 50), fate=st.sampled_from(FATES))
    def give_up_a_reservation(self, number: int, output: int, fate: str) -> None:
        async def do() -> None:
            worker = self.workers[number]
            asked = self.world.reserve(worker, 0, output)
            worker.abandon(asked)
            await Wire(worker).carry(fate)

        self.loop.run_until_complete(do())

    @rule()
    def the_drainer_posts(self) -> None:
        self.ledger.post()

    @rule()
    def redis_is_wiped(self) -> None:
        self.loop.run_until_complete(self.redis.flushall())

    @rule()
    def redis_comes_back_as_another_left_it(self) -> None:
        """As from a file: with every key, and an epoch that is not this server's."""
        name = f"{{{self.deployment}}}:epoch"
        self.loop.run_until_complete(self.redis.set(name, "another.1.server"))

    @rule()
    def redis_is_wiped_in_the_middle_of_a_rebuild(self) -> None:
        async def wipe() -> None:
            await self.redis.flushall()

        self.ledger.during = wipe
        self.redis_is_wiped()

    def the_drainer_is_away(self) -> None:
        """No rule: what Redis took and no ledger has is lost then, as the rebuild says in its log."""
        self.ledger.away = True

    @rule(number=st.integers(0, 1))
    def a_worker_finds_out(self, number: int) -> None:
        self.loop.run_until_complete(self._usable(self.workers[number]))

    @rule(seconds=st.sampled_from((0.0, 0.02, 0.12)))
    def time_passes(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @rule(number=st.integers(0, 1), cost=st.integers(0, 80))
    def a_worker_dies(self, number: int, cost: int) -> None:
        """What it held is settled for it; what it had admitted by itself ends before, since no spool tells of that."""
        dead = self.workers[number]
        mine = [hold for worker, hold in self.running if worker is dead]
        self.running = [each for each in self.running if each[0] is not dead]

        async def do() -> None:
            await self._rest(dead)
            name, orphans = dead.link.worker_id, [hold for hold in mine if not hold.local]
            for hold in mine:
                if hold.local:
                    booked = self.ledger.settled(name, cost)
                    dead.settle(
                        hold, prompt_tokens=0, completion_tokens=cost, cost_nano_usd=cost, number=booked
                    )
            assert await dead._outbox.drained(10)
            await dead.link.stop()
            self.ledger.post()
            self.ledger.orphans[name] = cost * len(orphans)
            # The other has not heard of it, or rebuilds meanwhile.
            await self._usable(self.workers[1 - number])
            for hold in orphans:
                await self.settler.settle(
                    worker_id=name, request_id=hold.request_id, charges=_told(hold), prompt_tokens=0,
                    completion_tokens=cost, cost_nano_usd=cost, spool_id=name, number=EVERYTHING,
                )  # fmt: skip
            self.workers[number] = await self.join()

        self.loop.run_until_complete(do())

    # what must hold

    def teardown(self) -> None:
        if hasattr(self, "settler"):
            try:
                self.loop.run_until_complete(self._agree())
            finally:
                self.loop.run_until_complete(self._end())

    async def _agree(self) -> None:
        for worker, hold in self.running:
            number = self.ledger.settled(worker.link.worker_id, 7)
            worker.settle(hold, prompt_tokens=0, completion_tokens=7, cost_nano_usd=7, number=number)
        for _ in range(2):
            for each in self.workers:
                await self._rest(each)
        self.ledger.post()
        start = edges(BUDGET.period, 0)[0]
        key = self.workers[0].link.keys.period(BUDGET.id, "", start)
        fields = {name: int(value) for name, value in (await self.redis.hgetall(key)).items()}
        assert fields.get(b"t", 0) == self.ledger.total, fields
        assert sum(value for name, value in fields.items() if name not in (b"t", b"u")) == self.ledger.total

    async def _end(self) -> None:
        for each in self.workers:
            await each.close(seconds=5.0)
        await self.settler.stop()
        await self.redis.aclose()

    async def _rest(self, worker: Reservations) -> None:
        await self._usable(worker)
        assert await worker._outbox.drained(20)

    async def _usable(self, worker: Reservations) -> None:
        async with asyncio.timeout(20):
            while True:
                worker.link.lost()
                while not worker.link.usable:
                    await asyncio.sleep(0.002)
                    entering = worker.link._entering
                    if not worker.link.usable and (entering is None or entering.done()):
                        worker.link.lost()
                held: Any = await self.redis.get(worker.link.keys.epoch)
                if held == worker.link.epoch.encode():
                    return


def _told(hold: Hold) -> list[Charge]:
    """As the spool tells them: all that Redis granted."""
    return list(hold.charges)


class First:
    """Draws whoever runs longest."""

    def __init__(self, machine: Interleavings) -> None:
        self._machine = machine

    def draw(self, among: object) -> tuple[Reservations, Hold]:
        return self._machine.running[0]


Step = tuple[str, dict[str, Any]]
RESERVE: Step = ("reserve", {"number": 0, "output": 10, "fate": "answered"})
WIPE: Step = ("redis_is_wiped", {})
ANOTHER: Step = ("redis_comes_back_as_another_left_it", {})
FIND_OUT: Step = ("a_worker_finds_out", {"number": 0})
POST: Step = ("the_drainer_posts", {})
DIE: Step = ("a_worker_dies", {"number": 0, "cost": 4})


def settle(fate: str) -> Step:
    return "settle", {"cost": 3, "fate": fate}


WALKS: dict[str, list[Step]] = {
    "a settlement that was under way is in the sums": [RESERVE, settle("never sent"), WIPE],
    "a settlement that was taken is in no sums yet": [RESERVE, settle("answered"), WIPE],
    "a settlement was taken by what another server remembers": [
        RESERVE,
        ("the_drainer_is_away", {}),
        settle("answer lost"),
        ANOTHER,
    ],
    "what was admitted here was reported to counters that are lost": [
        ("reserve", {"number": 0, "output": 10, "fate": "never sent"}),
        FIND_OUT,
        WIPE,
        FIND_OUT,
    ],
    "what was admitted here ended before it was reported": [
        ("reserve", {"number": 0, "output": 10, "fate": "never sent"}),
        settle("never sent"),
        POST,
        WIPE,
    ],
    "a top-up of a later epoch is granted and its answer lost": [
        RESERVE,
        WIPE,
        FIND_OUT,
        ("top_up", {"output": 20, "fate": "answer lost"}),
    ],
    "Redis is wiped while it is filled": [
        RESERVE,
        settle("answered"),
        ("redis_is_wiped_in_the_middle_of_a_rebuild", {}),
        FIND_OUT,
    ],
    "a worker dies whose holds were carried over": [RESERVE, WIPE, FIND_OUT, DIE],
    "a worker dies and the counters are lost before its requests are ended": [RESERVE, RESERVE, WIPE, DIE],
}


@pytest.mark.parametrize("steps", WALKS.values(), ids=WALKS)
def test_the_counter_is_the_ledgers_sum_where(steps: list[Step], redis_url: str) -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    Interleavings.loop, Interleavings.url = loop, redis_url
    machine = Interleavings()
    try:
        machine.begin()
        for name, given in steps:
            drawn = {"data": First(machine)} if name in ("settle", "top_up") else {}
            getattr(machine, name)(**drawn, **given)
        machine.teardown()
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def test_at_rest_the_counter_is_the_ledgers_sum_whatever_was_lost(redis_url: str) -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        Interleavings.loop, Interleavings.url = loop, redis_url
        run_machine(
            Interleavings,
            settings=settings(
                max_examples=12,
                stateful_step_count=14,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )
    finally:
        asyncio.set_event_loop(None)
        loop.close()
