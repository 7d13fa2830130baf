"""Principals, grants, limits, budgets, credits, reservations and their ends, on a real Redis and a real PostgreSQL.

A plain model keeps what was asked and what it came to. After every step the counters in Redis and the sums of the
ledger agree with it, however workers die and Redis is wiped in between: the same balances come back.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.counters.earlier import EarlierSpend
from gateway.counters.hold import Hold
from gateway.counters.levels import CounterLevels
from gateway.counters.plans import Indexes, draws_of
from gateway.counters.rebuild import Rebuild
from gateway.counters.reservations import Reservations
from gateway.counters.settler import CounterSettler
from gateway.errors import BadRequest, BudgetExhausted, LimitExceeded
from gateway.events.credits import CreditWatch
from gateway.ids import parse
from gateway.spool.books import Place
from gateway.spool.joining import Entry, settled
from gateway.store import database
from gateway.store.budgets import create_budget, update_budget
from gateway.store.catalog import IN_SNAPSHOT
from gateway.store.changes import Actor, Configuration
from gateway.store.credits import OfPrincipal, enter
from gateway.store.database import connect
from gateway.store.endpoints import EntitySpec, add_price, create_endpoint, grant, withdraw
from gateway.store.ledger import PostgresBooks
from gateway.store.principals import add_member, create_group, create_principal, remove_member
from gateway.store.reading import Row, rows
from gateway.store.rules import create_limit, update_limit
from gateway.store.snapshot import ConfigurationRows, build
from gateway.store.spend import spent
from gateway.store.sums import PostgresSums
from gateway.store.tables.catalog import grants, served_entities
from gateway.store.tables.rules import budgets, limits
from policies.catalog import Snapshot
from policies.estimate import STREAM_SLICE
from policies.limits import Draw, Metric, ScopeKind
from policies.permissions import Level, may
from policies.principal import Caller
from policies.windows import Rolling, edges
from tests.counters.conftest import new_id
from tests.counters.model import Counters, Granted
from tests.spool.making import attempt, intent, settlement

T = TypeVar("T")
ROOT = Actor(None, "tests")
PEOPLE = ("ann", "bob", "eve")
CROWDS = ("reds", "blues")
WORKERS = 2
_serials = itertools.count(1)


@dataclass
class Made:
    """One admission, as the model remembers it."""

    who: str
    group: str | None
    hold: Hold
    worker: Reservations
    held: dict[tuple[str, str], int]
    """What each counter holds for it, by limit and subject."""
    forgotten: set[str] = field(default_factory=set[str])
    """Sliding windows that were wiped under it: they count it when it ends."""
    ended: bool = False
    tokens: int = 0
    cost: int = 0


class Books(Counters):
    """The decisions of the plain model, over balances that are sums of what was made."""

    def __init__(self, stores: Stores) -> None:
        super().__init__()
        self.stores = stores
        self.made: list[Made] = []
        self.given: list[tuple[str, int]] = []
        """Credits and charges of people, in no request."""

    def used(self, draw: Draw, now_ms: int) -> int:
        total = 0
        for each in self.made:
            if not self._counts(draw, each):
                continue
            if each.ended:
                total += {
                    Metric.MONEY: each.cost,
                    Metric.TOTAL_TOKENS: each.tokens,
                    Metric.REQUESTS: 1,
                    Metric.CONCURRENT_REQUESTS: 0,
                }[draw.metric]
            elif draw.limit_id not in each.forgotten:
                total += each.held.get((draw.limit_id, draw.subject), 0)
        if draw.metric is Metric.MONEY and draw.scope is not ScopeKind.GROUP:
            total += sum(
                amount
                for who, amount in self.given
                if draw.scope is ScopeKind.DEPLOYMENT or who == draw.subject
            )
        return total

    def _charge(self, draw: Draw, now_ms: int, amount: int) -> int:
        return 0

    def settled_cost(self, draw: Draw) -> int:
        """What the ledger says of a budget."""
        running = [each for each in self.made if not each.ended]
        held = sum(each.held.get((draw.limit_id, draw.subject), 0) for each in running)
        return self.used(draw, 0) - held

    def _counts(self, draw: Draw, each: Made) -> bool:
        match draw.scope:
            case ScopeKind.GROUP | ScopeKind.GROUP_DEFAULT:
                return each.group == draw.subject
            case ScopeKind.ENDPOINT | ScopeKind.DEPLOYMENT:
                return True
            case _:
                return self.stores.ids[each.who] == draw.subject


class Stores:
    """The real parts: made once, with one configuration; each run begins with an empty ledger and counters of its own."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, database_url: str, owner_url: str, redis_url: str
    ) -> None:
        self.loop = loop
        self.database_url, self.owner_url, self.redis_url = database_url, owner_url, redis_url
        self.engine: AsyncEngine = database.engine(database_url, size=4)
        self.configuration = Configuration(self.engine, b"c" * 32)
        self.books = PostgresBooks(database_url, host="here")
        self.ids: dict[str, str] = {}
        self.endpoint: Row = {}
        self.snapshot = Snapshot(0)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    async def prepare(self) -> None:
        """One endpoint with a price; people, crowds, and rules of every scope."""
        await self.books.make_partitions()
        async with self.configuration.change(ROOT) as change:
            for name in PEOPLE:
                self.ids[name] = (await create_principal(change, "user", {"name": name}))["id"]
            for name in CROWDS:
                self.ids[name] = (await create_group(change, name, ""))["id"]
            entity = EntitySpec("only", "local", "vllm", "mixtral-demo")
            self.endpoint = await create_endpoint(change, {"name": "chat", "task": "llm/v1/chat"}, [entity])
            found = await change.rows(served_entities, served_entities.c.endpoint_id == self.endpoint["id"])
            classes = {
                "input": 3_000_000,
                "cache_read": 0,
                "cache_write": 0,
                "output": 5_000_000,
                "reasoning": 0,
            }
            await add_price(change, found[0]["id"], {**classes, "per_request": 7})
            ann, reds, blues = self.ids["ann"], self.ids["reds"], self.ids["blues"]
            for scope, subject, period in (
                ("deployment", None, "once"),
                ("user_default", None, "month"),
                ("user", ann, "month"),
                ("group", reds, "week"),
                ("group", blues, "week"),
            ):
                values = {"scope": scope, "subject_id": subject, "period": period, "amount_nano_usd": 10_000}
                await create_budget(change, values)
            calendar = {"window_kind": "calendar", "window_unit": "day", "time_zone": "Asia/Kolkata"}
            hour = {"window_kind": "rolling", "window_ms": 3_600_000}
            for scope, subject, metric, window in (
                ("user_default", None, "total_tokens", calendar),
                ("endpoint", None, "total_tokens", hour),
                ("user_default", None, "requests", calendar),
                ("user_default", None, "concurrent_requests", {"window_kind": "none"}),
            ):
                values = {"scope": scope, "subject_id": subject, "metric": metric, "amount": 1_000, **window}
                await create_limit(change, values)

    async def load(self) -> None:
        """Read the configuration as workers do."""
        async with self.configuration.reading() as connection:
            tables = {name: await rows(connection, table) for name, table in IN_SNAPSHOT.items()}
        self.snapshot = build(ConfigurationRows(version=next(_serials), **tables), datetime.now(UTC)).snapshot

    async def clear(self) -> None:
        """An empty ledger, generous rules, nobody in a crowd, no grant."""
        owner = await connect(self.owner_url, application_name="test")
        await owner.execute(
            "TRUNCATE gateway.requests, gateway.attempts, gateway.usage_hour, gateway.usage_day, gateway.credits"
        )
        await owner.close()
        async with Redis.from_url(self.redis_url) as redis:
            await redis.flushall()
        async with self.configuration.change(ROOT) as change:
            for each in await change.rows(grants):
                await withdraw(change, each)
            for each in self.snapshot.groups:
                for member in self.members(each):
                    await remove_member(change, each, member)
            for each in await change.rows(budgets):
                await update_budget(change, each, {"amount_nano_usd": 10_000})
            for each in await change.rows(limits):
                await update_limit(change, each, {"amount": 1_000})
        await self.load()

    def members(self, group: str) -> list[str]:
        """Who is in a group directly."""
        return [each.id for each in self.snapshot.principals.values() if group in each.groups]

    async def close(self) -> None:
        await self.books.close()
        await self.engine.dispose()


class Agreement(RuleBasedStateMachine):
    """Each rule does something to the real parts and to the model."""

    stores: Stores

    @initialize()
    def begin(self) -> None:
        stores = self.stores
        stores.run(stores.clear())
        self.deployment = f"agree{next(_serials)}"
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
            self.stores.redis_url, f"w{next(_serials)}", deployment=self.deployment, opener=self.rebuild,
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
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        stores.run(stores.close())
        asyncio.set_event_loop(None)
        loop.close()


def test_stores_and_model_agree(database_url: str, owner_url: str, redis_url: str) -> None:
    agree(database_url, owner_url, redis_url, examples=6, steps=25)
