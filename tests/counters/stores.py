"""What the stateful model keeps, and the real parts that it is compared with.

A balance of the model is a sum over what was made: it knows nothing of counters, epochs or roll-ups.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.counters.hold import Hold
from gateway.counters.reservations import Reservations
from gateway.store import database
from gateway.store.budgets import create_budget, update_budget
from gateway.store.changes import Actor, Configuration
from gateway.store.database import connect
from gateway.store.endpoints import EntitySpec, add_price, create_endpoint, withdraw
from gateway.store.history import TABLES_IN_SNAPSHOT
from gateway.store.ledger import PostgresBooks
from gateway.store.principals import create_group, create_principal, remove_member
from gateway.store.reading import Row, rows
from gateway.store.rules import create_limit, update_limit
from gateway.store.snapshot import ConfigurationRows, build
from gateway.store.tables.catalog import grants, served_entities
from gateway.store.tables.rules import budgets, limits
from policies.catalog import Snapshot
from policies.limits import Draw, Metric, ScopeKind
from tests.counters.model import Counters

T = TypeVar("T")
ROOT = Actor(None, "tests")
PEOPLE = ("ann", "bob", "eve")
CROWDS = ("reds", "blues")
serials = itertools.count(1)


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
            tables = {name: await rows(connection, table) for name, table in TABLES_IN_SNAPSHOT.items()}
        self.snapshot = build(ConfigurationRows(version=next(serials), **tables), datetime.now(UTC)).snapshot

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
