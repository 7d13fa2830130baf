"""Books as workers and the drainer make them, with a budget that counts in Redis."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from redis import Redis

from gateway.counters.keys import Keys
from gateway.spool.drainer import Drainer
from gateway.spool.records import Charge, Intent, Settlement
from gateway.spool.writer import SpoolWriter
from gateway.store import database
from gateway.store.ledger import PostgresBooks
from gateway.verify.books import check_books
from gateway.verify.findings import Check
from policies.budgets import Budget
from policies.limits import ScopeKind
from policies.windows import Calendar, Unit, edges
from tests.spool.making import attempt, intent, now_ms, settlement
from tests.store_ledger.books_check import drain

if TYPE_CHECKING:
    from gateway.embedded.postgres import EmbeddedPostgres

BUDGET = Budget("01900000-0000-7000-8000-000000000001", ScopeKind.USER_DEFAULT, Calendar(Unit.MONTH), 10**12)
SPENT = 207


@dataclass
class World:
    """One host: a spool, a drainer, the ledger, and the counters."""

    root: Path
    url: str
    superuser_url: str
    redis: Redis
    redis_url: str
    books: PostgresBooks
    spool: SpoolWriter
    connection: asyncpg.Connection
    """As the application; jsonb is decoded, as the verification has it."""
    forger: asyncpg.Connection
    drainer: Drainer = field(init=False)

    def __post_init__(self) -> None:
        self.drainer = Drainer(self.root, self.books)

    def records(self, *, at_ms: int | None = None, **changes: Any) -> tuple[Intent, Settlement]:
        """A request's records, numbered and charged as a worker would."""
        at = at_ms or now_ms()
        start = edges(BUDGET.period, at)[0]
        principal = changes.pop("principal_id", "u_1")
        key = Keys().period(BUDGET.id, principal, start).decode()
        charges = [Charge(BUDGET.id, principal, "money", key, "p", start, 1012, 0)]
        self.spool.numbered += 2
        begun = intent(
            admitted_at_ms=at,
            principal_id=principal,
            charges=charges,
            number=self.spool.numbered - 1,
            **changes,
        )
        last = attempt(begun, cost_nano_usd=SPENT)
        return begun, settlement(begun, last, number=self.spool.numbered)

    def request(self, **changes: Any) -> Intent:
        """One request from its intent to its settlement, in the spool and in the counters."""
        begun, ended = self.records(**changes)
        self.spool.append(begun)
        self.spool.append(ended)
        self.count(begun)
        return begun

    def count(self, begun: Intent, amount: int = SPENT) -> None:
        """Have the counter have it."""
        key = begun.charges[0].key
        self.redis.hincrby(key, "t", amount)
        self.redis.hincrby(key, f"w:{self.spool.worker_id}", amount)

    async def drained(self) -> None:
        """All that was written is in the ledger, and the ledger says so."""
        await drain(self.drainer)
        await self.drainer._now_and_then()

    async def checks(self, connection: asyncpg.Connection | None = None) -> dict[str, Check]:
        """The checks of the books, by name; `connection` may be the forger's, in the middle of it."""
        connection = connection or self.connection
        # As if it were later: of the last seconds it is not certain yet whether anything is missing.
        until = await connection.fetchval("SELECT clock_timestamp() + interval '10 seconds'")
        assert until is not None
        return {each.name: each for each in await check_books(connection, until)}

    async def wrong(self, connection: asyncpg.Connection | None = None) -> dict[str, list[str]]:
        """What each check that found something says."""
        return {
            name: [f"{found.where}: {found.what}" for found in check.findings]
            for name, check in (await self.checks(connection)).items()
            if check.differences
        }


@pytest.fixture
async def world(
    postgres_server: EmbeddedPostgres, migrated_template: str, redis_url: str, tmp_path: Path
) -> AsyncIterator[World]:
    name = "verify_test"
    await postgres_server.create_database(name, template=migrated_template)
    url, superuser = postgres_server.url(database=name), postgres_server.url("postgres", name)
    redis = Redis.from_url(redis_url)
    redis.set(Keys().epoch, "run.1.0")
    connection = await database.connect(url, application_name="tests")
    forger = await asyncpg.connect(superuser)
    for each in (connection, forger):
        await each.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
    made = World(
        tmp_path / "spool", url, superuser, redis, redis_url, PostgresBooks(url, host="here"),
        SpoolWriter(tmp_path / "spool"), connection, forger,
    )  # fmt: skip
    yield made
    made.spool.close()
    made.drainer.close()
    await made.books.close()
    await made.connection.close()
    await made.forger.close()
    redis.close()
    await postgres_server.drop_database(name)
