"""Principals, grants, limits, budgets, credits, reservations and their ends, on a real Redis and a real PostgreSQL.

A plain model keeps what was asked and what it came to. After every step the counters in Redis and the sums of the
ledger agree with it, however workers die and Redis is wiped in between: the same balances come back.
"""

from __future__ import annotations

import asyncio
import time
from typing import TypeVar
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from redis.asyncio import Redis

from gateway.counters.earlier import EarlierSpend
from gateway.counters.levels import CounterLevels
from gateway.counters.rebuild import Rebuild
from gateway.counters.reservations import Reservations
from gateway.counters.settler import CounterSettler
from gateway.errors import BadRequest, BudgetExhausted, LimitExceeded
from gateway.events.credits import CreditWatch
from gateway.ids import parse
from gateway.spool.books import Place
from gateway.spool.joining import Entry, settled
from gateway.store.budgets import update_budget
from gateway.store.credits import OfPrincipal, enter
from gateway.store.endpoints import grant, withdraw
from gateway.store.principals import add_member, remove_member
from gateway.store.rules import update_limit
from gateway.store.spend import spent
from gateway.store.sums import PostgresSums
from gateway.store.tables.catalog import grants
from gateway.store.tables.rules import budgets, limits
from policies.draws import Indexes, draws_of
from policies.estimate import STREAM_SLICE
from policies.limits import Draw, Metric
from policies.permissions import Level, may
from policies.principal import Caller
from policies.windows import Rolling, edges
from tests.counters.conftest import new_id
from tests.counters.model import Granted
from tests.counters.stores import CROWDS, PEOPLE, ROOT, Books, Made, Stores, serials
from tests.spool.making import attempt, intent, settlement

T = TypeVar("T")
WORKERS = 2


class Agreement(RuleBasedStateMachine):
    """Each rule does something to the real parts and to the model."""

    stores: Stores

    @initialize()
    def begin(self) -> None:
        stores = self.stores
        stores.run(stores.clear())
        self.deployment = f"agree{next(serials)}"
        self.model = Books(stores)
        self.levels: dict[str, dict[str, Level]] = {name: {} for name in (*PEOPLE, *CROWDS)}
        self.posted = True
        """Whether the ledger changed since it was looked at."""
        self.crowds: dict[str, set[str]] = {name: set() for name in CROWDS}
        self.rebuild = Rebuild(stores.redis_url, PostgresSums(stores.database_url), lambda: stores.snapshot)
        self.workers = [stores.run(self.join()) for _ in range(WORKERS)]
        self.counters = CounterLevels(stores.redis_url, deployment=self.deployment)
        self.earlier = EarlierSpend(stores.redis_url, deployment=self.deployment)
        self.watch = CreditWatch(
            stores.engine,
            self.earlier,
            lambda: stores.snapshot.budgets,
            now_ms=lambda: time.time_ns() // 1_000_000,
        )
        self.settler = CounterSettler(stores.redis_url, deployment=self.deployment, timeout_seconds=5.0)
        stores.run(self.settler.start())
        stores.run(asyncio.wait_for(self.settler._ready.wait(), 10))

    async def join(self) -> Reservations:
        worker = await Reservations.connect(
            self.stores.redis_url, f"w{next(serials)}", deployment=self.deployment, opener=self.rebuild,
            timeout_seconds=5.0, wait_seconds=20.0,
        )  # fmt: skip
        assert worker.link.usable
        return worker

    def teardown(self) -> None:
        if hasattr(self, "settler"):
            run = self.stores.run
            for each in self.workers:
                run(each.close(seconds=5.0))
            run(self.settler.stop())
            run(self.counters.close())
            run(self.earlier.close())

    # who may

    @rule(
        name=st.sampled_from((*PEOPLE, *CROWDS)),
        level=st.sampled_from((None, Level.CAN_VIEW, Level.CAN_QUERY)),
    )
    def grant_or_withdraw(self, name: str, level: Level | None) -> None:
        stores = self.stores

        async def do() -> None:
            async with stores.configuration.change(ROOT) as change:
                there = await change.rows(grants, grants.c.grantee_id == stores.ids[name])
                if level is not None:
                    kind = "group" if name in CROWDS else "user"
                    await grant(change, stores.endpoint, kind, stores.ids[name], level.name)
                elif there:
                    await withdraw(change, there[0])
            await stores.load()

        stores.run(do())
        self.levels[name] = {} if level is None else {"chat": level}

    @rule(name=st.sampled_from(PEOPLE), crowd=st.sampled_from(CROWDS))
    def join_or_leave(self, name: str, crowd: str) -> None:
        stores, inside = self.stores, name in self.crowds[crowd]

        async def do() -> None:
            async with stores.configuration.change(ROOT) as change:
                if inside:
                    await remove_member(change, stores.ids[crowd], stores.ids[name])
                else:
                    row = {"id": stores.ids[crowd], "managed_by": None, "name": crowd}
                    await add_member(change, row, "user", stores.ids[name])
            await stores.load()

        stores.run(do())
        (self.crowds[crowd].discard if inside else self.crowds[crowd].add)(name)

    @rule(number=st.integers(0, 4), amount=st.sampled_from((0, 500, 2_000, 10_000)))
    def change_a_budget(self, number: int, amount: int) -> None:
        stores = self.stores

        async def do() -> None:
            async with stores.configuration.change(ROOT) as change:
                each = (await change.rows(budgets))[number]
                await update_budget(change, each, {"amount_nano_usd": amount})
            await stores.load()

        stores.run(do())

    @rule(number=st.integers(0, 3), amount=st.sampled_from((2, 300, 1_000)))
    def change_a_limit(self, number: int, amount: int) -> None:
        stores = self.stores

        async def do() -> None:
            async with stores.configuration.change(ROOT) as change:
                await update_limit(change, (await change.rows(limits))[number], {"amount": amount})
            await stores.load()

        stores.run(do())

    # what is used

    @rule(
        name=st.sampled_from(PEOPLE),
        prompt=st.integers(0, 200),
        output=st.integers(0, STREAM_SLICE),
        share=st.sampled_from((0.1, 1.0)),
        number=st.integers(0, WORKERS - 1),
    )
    def reserve(self, name: str, prompt: int, output: int, share: float, number: int) -> None:
        stores, snapshot = self.stores, self.stores.snapshot
        caller = Caller(snapshot.principals[stores.ids[name]])
        endpoint = snapshot.endpoints["chat"]
        own = [self.levels[name], *(self.levels[each] for each in CROWDS if name in self.crowds[each])]
        expected = any(each.get("chat", Level.CAN_VIEW) >= Level.CAN_QUERY for each in own)
        assert bool(may(snapshot, caller, Level.CAN_QUERY, endpoint)) is expected
        if not expected:
            return
        draws = self._draws(name)
        worker, least = self.workers[number], int(output * share)
        money, per_token = -(-prompt * 3_000_000 // 1_000_000) + 7, 5
        now = time.time_ns() // 1_000_000
        wanted = self.model.reserve(draws, now, output, least, prompt, money, per_token)
        asked = worker.reserve(
            snapshot, caller, endpoint, request_id=new_id(), prompt_tokens=prompt, output_tokens=output,
            least_output=least,
        )  # fmt: skip
        try:
            hold = stores.run(_answer(asked))
        except (LimitExceeded, BudgetExhausted):
            assert not isinstance(wanted, Granted), "the model had room"
            return
        assert isinstance(wanted, Granted), "the model had no room"
        assert hold.degraded is None
        assert hold.granted_output == wanted.output
        held = {
            (draws[index].limit_id, draws[index].subject): amount
            for index, (_, amount) in wanted.charged.items()
        }
        assert {(each.limit_id, each.subject): each.fixed for each in hold.charges} == held
        self.model.made.append(Made(name, hold.group_id, hold, worker, held))

    @precondition(lambda self: self._running())
    @rule(data=st.data(), output=st.integers(1, 200))
    def top_up(self, data: st.DataObject, output: int) -> None:
        each = data.draw(st.sampled_from(self._running()))
        if each.forgotten:
            return
        draws = [
            Draw(draw.limit_id, draw.scope, draw.subject, draw.owner, draw.name, draw.metric, draw.window, draw.capacity, draw.mode)
            for draw in (tap.draw for tap in each.hold.plan.taps)
            if (draw.limit_id, draw.subject) in each.held
            and draw.metric in (Metric.MONEY, Metric.TOTAL_TOKENS)
        ]  # fmt: skip
        wanted = self.model.reserve(draws, time.time_ns() // 1_000_000, output, 1, 0, 0, 5)
        granted = self.stores.run(_answer(each.worker.top_up(each.hold, output)))
        assert granted == (wanted.output if isinstance(wanted, Granted) else 0)
        if isinstance(wanted, Granted):
            for index, (_, amount) in wanted.charged.items():
                each.held[draws[index].limit_id, draws[index].subject] += amount

    @precondition(lambda self: self._running())
    @rule(
        data=st.data(), prompt=st.integers(0, 250), completion=st.integers(0, 300), cost=st.integers(0, 3_000)
    )
    def settle(self, data: st.DataObject, prompt: int, completion: int, cost: int) -> None:
        each = data.draw(st.sampled_from(self._running()))
        each.worker.settle(each.hold, prompt_tokens=prompt, completion_tokens=completion, cost_nano_usd=cost)
        assert self.stores.run(each.worker._outbox.drained(10))
        self._end(each, prompt, completion, cost)

    @rule(data=st.data(), number=st.integers(0, WORKERS - 1), completion=st.integers(0, 300))
    def a_worker_dies(self, data: st.DataObject, number: int, completion: int) -> None:
        """What it held expires: the drainer settles it for what is known, and another takes its place."""
        stores, dead = self.stores, self.workers[number]
        stores.run(dead.link.stop())
        self.workers[number] = stores.run(self.join())
        for each in [each for each in self._running() if each.worker is dead]:
            if each.forgotten:
                # Of an older epoch: its tokens are in the ledger only, until the window is built again.
                self.model.made.remove(each)
                continue
            cost = completion * 5
            stores.run(
                self.settler.settle(
                    worker_id=dead.link.worker_id, request_id=each.hold.request_id, charges=each.hold.charges,
                    prompt_tokens=10, completion_tokens=completion, cost_nano_usd=cost,
                )
            )  # fmt: skip
            self._end(each, 10, completion, cost)

    @rule(name=st.sampled_from(PEOPLE), amount=st.sampled_from((-900, -50, 70)))
    def credit_a_person(self, name: str, amount: int) -> None:
        self.stores.run(self._enter(OfPrincipal(self.stores.ids[name]), amount))
        self.model.given.append((self.stores.ids[name], amount))

    @precondition(lambda self: any(each.ended for each in self.model.made))
    @rule(data=st.data(), amount=st.integers(-2_000, 100).filter(bool))
    def credit_a_request(self, data: st.DataObject, amount: int) -> None:
        each = data.draw(st.sampled_from([each for each in self.model.made if each.ended]))
        if each.cost + amount < 0:
            with pytest.raises(BadRequest):
                self.stores.run(self._enter(each.hold.request_id, amount))
            return
        self.stores.run(self._enter(each.hold.request_id, amount))
        each.cost += amount

    @rule()
    def redis_is_wiped(self) -> None:
        """The workers find out, one rebuilds from the ledger, and all carry over what they hold."""
        stores = self.stores

        async def do() -> None:
            before = {each.link.epoch for each in self.workers}
            async with Redis.from_url(stores.redis_url) as redis:
                await redis.flushall()
            for each in self.workers:
                each.link.lost()
            async with asyncio.timeout(30):
                while any(not each.link.usable or each.link.epoch in before for each in self.workers):
                    await asyncio.sleep(0.01)
                while any(each.unsettled for each in self.workers):
                    await asyncio.sleep(0.01)

        stores.run(do())
        sliding = {each.id for each in stores.snapshot.limits if isinstance(each.window, Rolling)}
        for each in self._running():
            each.forgotten |= sliding

    # what must hold

    @invariant()
    def counters_and_ledger_agree_with_the_model(self) -> None:
        if not hasattr(self, "settler"):
            return
        stores, now = self.stores, time.time_ns() // 1_000_000
        draws = {(draw.limit_id, draw.subject): draw for name in PEOPLE for draw in self._draws(name)}
        found = stores.run(self.counters.read(list(draws.values())))
        assert found is not None
        for draw, level in zip(draws.values(), found, strict=True):
            assert level.used == self.model.used(draw, now), f"{draw.scope} {draw.metric} of {draw.subject}"
        if self.posted:
            self.posted = False
            sums = stores.run(self._spent(now))
            for draw in draws.values():
                if draw.metric is Metric.MONEY:
                    assert sums.get((draw.limit_id, draw.subject), 0) == self.model.settled_cost(draw)

    # private

    def _running(self) -> list[Made]:
        return [each for each in self.model.made if not each.ended]

    def _draws(self, name: str) -> list[Draw]:
        snapshot = self.stores.snapshot
        caller = Caller(snapshot.principals[self.stores.ids[name]])
        return draws_of(Indexes.of(snapshot), caller, snapshot.endpoints["chat"], None)

    def _end(self, each: Made, prompt: int, completion: int, cost: int) -> None:
        """Into the ledger, as the drainer puts it there."""
        each.ended, each.tokens, each.cost = True, prompt + completion, cost
        self.posted = True
        hold = each.hold
        begun = intent(
            request_id=parse(hold.request_id), admitted_at_ms=hold.admitted_at_ms, principal_id=self.stores.ids[each.who],
            principal_name=each.who, key_id=None, group_id=hold.group_id, endpoint_id=self.stores.endpoint["id"],
            endpoint_name="chat", charges=hold.charges,
        )  # fmt: skip
        made = attempt(begun, fresh_input=prompt, output=completion, cost_nano_usd=cost)
        ended = settlement(begun, made, ended_at_ms=time.time_ns() // 1_000_000)
        posting = settled(Entry(begun, Place(0, 0)), ended, uuid4().bytes)
        assert len(self.stores.run(self.stores.books.post([posting], []))) == 1

    async def _enter(self, of: str | OfPrincipal, amount: int) -> None:
        async with self.stores.configuration.change(ROOT) as change:
            await enter(change, of, amount, "an outage")
        assert await self.watch.turn()
        self.posted = True

    async def _spent(self, now: int) -> dict[tuple[str, str], int]:
        async with self.stores.engine.connect() as connection:
            return {
                (budget.id, each.subject): each.nano_usd
                for budget in self.stores.snapshot.budgets
                for each in await spent(connection, budget, edges(budget.period, now))
            }


async def _answer(future: asyncio.Future[T]) -> T:
    return await future


def agree(database_url: str, owner_url: str, redis_url: str, *, examples: int, steps: int) -> None:
    """So many runs of so many steps."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    stores = Stores(loop, database_url, owner_url, redis_url)
    try:
        stores.run(stores.prepare())
        stores.run(stores.load())
        Agreement.stores = stores
        run_machine(
            Agreement,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow],
            ),
        )
    finally:
        stores.run(stores.close())
        asyncio.set_event_loop(None)
        loop.close()


def test_stores_and_model_agree(database_url: str, owner_url: str, redis_url: str) -> None:
    agree(database_url, owner_url, redis_url, examples=5, steps=20)
