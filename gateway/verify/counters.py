"""The counters of budgets in Redis against the ledger: base and deltas, to the nano-dollar.

A counter is its base, what came from the ledger, plus one delta a worker; it must be the sum of these at any moment.
Against the ledger it is compared as of the moment when it was read: what had ended by then exactly, what still ran
within what it held.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.counters.keys import Keys
from gateway.store.uncounted import SUBJECTS
from gateway.verify.findings import Check
from policies.budgets import Budget
from policies.limits import ScopeKind
from policies.windows import FOREVER_MS, edges

ROUNDS = 4
"""A counter that differs is read again: a correction may be on its way."""
WAIT_SECONDS = 10.0
_PAUSE_SECONDS = 1.0
_HOUR_MS = 3_600_000
_APART_MS = 2_000
"""How far a worker's clock, which says when a request ended, may be from Redis'."""
_DEFAULTS = frozenset({ScopeKind.USER_DEFAULT, ScopeKind.GROUP_DEFAULT})
_SECONDS = 5.0
# Whose counter may still take in what was spent before.
_CHANGED = "SELECT id::text FROM gateway.budgets WHERE to_change IS NULL AND valid_from > now() - interval '15 minutes'"


@dataclass(frozen=True, slots=True)
class Counter:
    """One budget's counter of one subject and period, as it was at a moment."""

    budget: Budget
    subject: str
    start_ms: int
    read_at_ms: int
    fields: Mapping[str, int]

    @property
    def identity(self) -> tuple[str, str]:
        """What it counts."""
        return self.budget.id, self.subject

    @property
    def where(self) -> str:
        """How it is named to people."""
        named = f"{self.budget.name!r} " if self.budget.name else ""
        of = f" of {self.subject}" if self.subject else ""
        return f"counter of budget {named}{self.budget.id}{of}, period from {_instant(self.start_ms):%Y-%m-%d %H:%M}Z"

    @property
    def total(self) -> int:
        """All that it counts."""
        return self.fields.get("t", 0)

    @property
    def spent(self) -> int:
        """Without credits and charges that people entered."""
        return self.total - self.fields.get("c", 0)

    @property
    def parts(self) -> int:
        """Base and deltas; to be the total."""
        return self.fields.get("b", 0) + sum(
            value for name, value in self.fields.items() if name.startswith("w:")
        )


class Spent(NamedTuple):
    """What the ledger says of it, as of the same moment."""

    ended: int
    running: int
    """What the counter may have on top: of what ran then, and of what was admitted without Redis."""
    credited: int
    latest_credit_ms: int


class CountersAway(Exception):
    """Redis cannot be read, or its counters are being rebuilt."""


async def check_counters(
    connection: asyncpg.Connection, redis_url: str, budgets: Sequence[Budget], *, deployment: str = "wb"
) -> Check:
    """Compare every counter of the present periods; `connection` is outside of a transaction."""
    check = Check("counters", "Budgets' counters in Redis")
    keys = Keys(deployment)
    changed = {row[0] for row in await connection.fetch(_CHANGED)}
    if lately := [each for each in budgets if each.id in changed]:
        check.notes.append(
            f"{len(lately)} budgets changed in the last 15 minutes and are left for the next time"
        )
        budgets = [each for each in budgets if each.id not in changed]
    try:
        async with Redis.from_url(
            redis_url, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS
        ) as redis:
            counters = await _read(redis, keys, budgets)
            check.looked_at = len(counters)
            await _find_missing(connection, check, counters, budgets)
            problems: dict[tuple[str, str], tuple[str, str]] = {}
            held = 0
            for number in range(ROUNDS):
                if number:
                    await asyncio.sleep(_PAUSE_SECONDS)
                    again = await _read(redis, keys, budgets)
                    counters = [each for each in again if each.identity in problems]
                whole = await _drained(connection, max((each.read_at_ms for each in counters), default=0))
                problems.clear()
                for each in counters:
                    problem, exactly = await _compare(connection, each, whole=whole)
                    held += problem is None and not exactly
                    if problem is not None:
                        problems[each.identity] = (each.where, problem)
                if not problems:
                    break
    except (RedisError, OSError, CountersAway) as error:
        check.skipped = str(error) or type(error).__name__
        return check
    for where, problem in problems.values():
        check.found(where, problem)
    if held:
        check.notes.append(f"{held} of them agree within what requests held that ran when they were read")
    return check


async def _read(redis: Redis, keys: Keys, budgets: Sequence[Budget]) -> list[Counter]:
    if not await redis.exists(keys.epoch):
        raise CountersAway("the counters are being rebuilt")
    seconds, micros = await redis.time()
    now = seconds * 1000 + micros // 1000
    own = {each.subject_id for each in budgets if each.subject_id is not None}
    wanted = {(each.id, edges(each.period, now)[0]): each for each in budgets}
    found: list[Counter] = []
    prefix = keys.period("", "", 0).decode().removesuffix(":::0")
    async for key in redis.scan_iter(match=f"{prefix}:*", count=1000):
        limit_id, _, rest = key.decode().removeprefix(f"{prefix}:").partition(":")
        subject, _, start = rest.rpartition(":")
        budget = wanted.get((limit_id, int(start)))
        # Whom a budget of its own binds, the default's counter does not count any more.
        if budget is None or (budget.scope in _DEFAULTS and subject in own):
            continue
        async with redis.pipeline(transaction=True) as pipe:
            pipe.time()
            pipe.hgetall(key)
            (seconds, micros), fields = await pipe.execute()
        values = {name.decode(): int(float(value)) for name, value in fields.items()}
        if values:
            found.append(Counter(budget, subject, int(start), seconds * 1000 + micros // 1000, values))
    return found


async def _find_missing(
    connection: asyncpg.Connection, check: Check, counters: Sequence[Counter], budgets: Sequence[Budget]
) -> None:
    """What was charged in a period that goes on has a counter; one that is gone would let everything be spent again."""
    there = {(each.budget.id, each.subject, each.start_ms) for each in counters}
    now = time.time_ns() // 1_000_000
    own = {each.subject_id for each in budgets if each.subject_id is not None}
    by_id = {each.id: each for each in budgets}
    rows = await connection.fetch(
        "SELECT limit_id, subject, (extract(epoch FROM period) * 1000)::int8 AS start_ms, nano_usd FROM gateway.balances"
        " WHERE limit_id = ANY($1::text[]) AND nano_usd > 0",
        list(by_id),
    )
    for row in rows:
        budget, subject, start = by_id[row["limit_id"]], row["subject"], row["start_ms"]
        if (budget.scope in _DEFAULTS and subject in own) or edges(budget.period, now)[0] != start:
            continue
        if (budget.id, subject, start) not in there:
            missing = Counter(budget, subject, start, now, {})
            check.found(missing.where, f"is not there; the balance is {row['nano_usd']:,} nano-dollars")


async def _drained(connection: asyncpg.Connection, until_ms: int) -> bool:
    """Wait until all that was admitted by then is in the ledger; False where some of it still runs."""
    deadline = time.monotonic() + WAIT_SECONDS
    statement = (
        "SELECT NOT EXISTS (SELECT FROM gateway.spool_positions WHERE closed_at IS NULL"
        " AND complete_until < $1 AND updated_at > now() - interval '1 day')"
    )
    while not await connection.fetchval(statement, _instant(until_ms)):
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(0.2)
    return True


async def _compare(
    connection: asyncpg.Connection, counter: Counter, *, whole: bool
) -> tuple[str | None, bool]:
    """What is wrong with it, and whether it was compared to the last nano-dollar.

    Where the ledger is not `whole`, what still runs has an amount that only its worker knows.
    """
    if "c" not in counter.fields and counter.parts != counter.total:
        return f"is {counter.total:,}, its base and deltas are {counter.parts:,}", True
    told = await _spent(connection, counter)
    if counter.spent < told.ended or (whole and counter.spent > told.ended + told.running):
        what = f"counts {counter.spent:,} nano-dollars, the ledger has {told.ended:,}"
        return (f"{what} and {told.running:,} that ran" if told.running else what), True
    credited = counter.fields.get("c", 0)
    # A credit reaches the counter a moment after it was entered.
    if credited != told.credited and counter.read_at_ms - told.latest_credit_ms > 60_000:
        return f"has {credited:,} nano-dollars of credits and charges, {told.credited:,} were entered", True
    return None, counter.spent == told.ended


async def _spent(connection: asyncpg.Connection, counter: Counter) -> Spent:
    budget, column = counter.budget, SUBJECTS[counter.budget.scope]
    start, until = counter.start_ms, counter.read_at_ms
    given: list[object] = [_instant(start), _instant(until + 1), _instant(until - _APART_MS), budget.id]
    where = "true"
    if budget.scope is not ScopeKind.DEPLOYMENT:
        given.append(counter.subject)
        where = f"{column} = ${len(given)}"
    if budget.endpoint_id is not None:
        given.append(budget.endpoint_id)
        where += f" AND endpoint_id = ${len(given)}"
    first = min(-(-start // _HOUR_MS) * _HOUR_MS, until + 1)
    last = max(until // _HOUR_MS * _HOUR_MS, first)
    given += [_instant(first), _instant(last)]
    whole, rest = f"${len(given) - 1}", f"${len(given)}"
    rows = "gateway.requests WHERE request_id >= gateway.uuid7_floor(greatest({0}::timestamptz - interval '1 day', to_timestamp(0)))"
    statement = f"""
        WITH edge AS (
            SELECT admitted_at, cost_nano_usd FROM {rows.format("$1")} AND {where} AND admitted_at >= $1 AND admitted_at < {whole}
            UNION ALL
            SELECT admitted_at, cost_nano_usd FROM {rows.format(rest)} AND {where} AND admitted_at >= {rest} AND admitted_at < $2
        ), unsure AS (
            SELECT cost_nano_usd AS cost, coalesce((
                SELECT sum((charge ->> 'reserved')::int8) FROM jsonb_array_elements(charges) AS charge WHERE charge ->> 'limit' = $4
            ), 0) AS held
            FROM {rows.format("$3")} AND {where} AND admitted_at >= $1 AND admitted_at < $2 AND ended_at >= $3
            UNION ALL SELECT cost_nano_usd, 0 FROM {rows.format("$1")} AND {where}
            AND admitted_at >= $1 AND admitted_at < $2 AND ended_at < $3 AND degraded IS NOT NULL
        ), entered AS (
            SELECT nano_usd, entered_at FROM gateway.credits WHERE {where} AND counts_at >= $1 AND counts_at < $2
        )
        SELECT (SELECT coalesce(sum(cost_nano_usd), 0) FROM gateway.usage_hour WHERE {where} AND period >= {whole} AND period < {rest})::int8
             + (SELECT coalesce(sum(cost_nano_usd), 0) FROM edge)::int8 - (SELECT coalesce(sum(cost), 0) FROM unsure)::int8 AS ended,
            (SELECT coalesce(sum(greatest(cost, held)), 0) FROM unsure)::int8 AS running,
            (SELECT coalesce(sum(nano_usd), 0) FROM entered)::int8 AS credited,
            (SELECT coalesce(extract(epoch FROM max(entered_at)) * 1000, 0) FROM entered)::int8 AS latest
    """  # noqa: S608 - made of own names; every value is a parameter
    row = await connection.fetchrow(statement, *given)
    assert row is not None
    return Spent(row["ended"], row["running"], row["credited"], row["latest"])


def _instant(ms: int) -> datetime:
    return datetime.fromtimestamp(min(ms, FOREVER_MS) / 1000, UTC)
