"""Bring lost counters back from the ledger, then open a new epoch: one worker at a time does it, for all.

Until the epoch is open no script charges anything, so nothing can be counted twice. Budgets, calendar limits and
windows of an hour and longer come back; shorter windows begin anew. Away with either store, nothing is opened.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from gateway.counters.commands import Commands
from gateway.counters.connection import RedisAway
from gateway.counters.keys import Keys
from gateway.counters.link import Link
from gateway.counters.lua import command
from gateway.counters.outbox import SHORTEST_REBUILT_MS
from gateway.errors import Unavailable
from gateway.spool.poster import CLOCKS_APART_MS
from policies.budgets import Budget
from policies.catalog import Snapshot
from policies.limits import Limit, Metric, ScopeKind
from policies.windows import SUB_BUCKETS, Calendar, Rolling, edges

_log = logging.getLogger(__name__)

DRAIN_SECONDS = 5.0
_LONGEST_MS = 315_360_000_000
_KEPT_MS = 259_200_000
_AT_ONCE = 1000
T = TypeVar("T")


class LedgerAway(Exception):
    """The ledger cannot be read now."""


class Sum(NamedTuple):
    """What one subject used."""

    subject: str
    bucket: int
    """Number of the sub-bucket; 0 where none were asked for."""
    amount: int
    credited: int = 0
    """How much of it came from credits and charges; below zero where money was given back."""


@dataclass(frozen=True, slots=True)
class Question:
    """What the ledger is asked: the use of one limit or budget, by subject."""

    scope: ScopeKind
    metric: Metric
    since_ms: int
    until_ms: int
    """Only what had ended by then."""
    subject_id: str | None = None
    endpoint_id: str | None = None
    bucket_of: int | None = None
    """Width of a sliding window: sums by its sub-buckets."""


class LedgerSums(Protocol):
    """The ledger, as far as counters are rebuilt from it; every method raises LedgerAway."""

    def alone(self) -> AbstractAsyncContextManager[LedgerSums]:
        """Hold the deployment's lock for rebuilding; asks within it share its connection."""
        ...

    async def drained(self, until_ms: int, seconds: float) -> bool:
        """Wait until the known spools have posted what was admitted by then; False when that took too long."""
        ...

    async def ask(self, question: Question) -> Sequence[Sum]:
        """Sums by subject, and by sub-bucket where asked."""
        ...


class Rebuild:
    """The port Opener: rebuilds from the ledger."""

    def __init__(self, redis_url: str, ledger: LedgerSums, snapshot: Callable[[], Snapshot]) -> None:
        """`snapshot` gives the present configuration, and raises while there is none."""
        self._redis_url = redis_url
        self._ledger = ledger
        self._snapshot = snapshot

    async def rebuild(self, link: Link, run_id: str) -> str:
        """Rebuild unless another worker has; gives the epoch. Raises RedisAway where it cannot be done now."""
        try:
            async with self._ledger.alone() as ledger, Commands(self._redis_url) as redis:
                (held,) = await redis.ask(command(b"GET", link.keys.epoch))
                if isinstance(held, bytes) and held.decode().startswith(f"{run_id}."):
                    return held.decode()
                cut_ms = link.now_ms()
                # A drainer that has just read all of a spool says so for a moment before.
                if not await ledger.drained(cut_ms - CLOCKS_APART_MS, DRAIN_SECONDS):
                    _log.warning(
                        "Rebuilding the counters before all spools are drained: what is missing is not counted"
                    )
                await _forget(redis, link.keys)
                written = await self._write(redis, ledger, link.keys, cut_ms)
                epoch = await link.open_epoch(run_id, cut_ms)
                _log.info("Rebuilt %d counters from the ledger", written)
                return epoch
        except LedgerAway as error:
            raise RedisAway(f"the counters cannot be rebuilt while the ledger is away: {error}") from error
        except Unavailable as error:
            raise RedisAway(f"the counters cannot be rebuilt: {error}") from error

    async def _write(self, redis: Commands, ledger: LedgerSums, keys: Keys, cut_ms: int) -> int:
        snapshot, written = self._snapshot(), 0
        for rule, window in rules_to_rebuild(snapshot):
            if isinstance(window, Calendar):
                start, end = edges(window, cut_ms)
                sums = await ledger.ask(_question(rule, start, cut_ms, None))
                for some in _parts(sums):
                    calls: list[bytes] = []
                    for each in some:
                        key = keys.period(rule.id, each.subject, start)
                        calls += _written(key, counter_of(each), min(end - cut_ms + _KEPT_MS, _LONGEST_MS))
                    await redis.ask(*calls)
                written += len(sums)
                continue
            width = window.milliseconds
            head = cut_ms * SUB_BUCKETS // width
            since = (head - SUB_BUCKETS) * width // SUB_BUCKETS
            by_subject: dict[str, dict[int, int]] = {}
            for each in await ledger.ask(_question(rule, since, cut_ms, width)):
                if head - SUB_BUCKETS <= each.bucket <= head:
                    by_subject.setdefault(each.subject, {})[each.bucket] = each.amount
            subjects = list(by_subject.items())
            for few in _parts(subjects):
                calls = []
                for subject, buckets in few:
                    fields = {str(bucket % (SUB_BUCKETS + 1)): amount for bucket, amount in buckets.items()}
                    counted = {"h": head, "t": sum(buckets.values()), **fields}
                    calls += _written(keys.window(rule.id, subject), counted, width + width // 20 + 1000)
                await redis.ask(*calls)
            written += len(by_subject)
        return written


def rules_to_rebuild(snapshot: Snapshot) -> Iterable[tuple[Limit | Budget, Calendar | Rolling]]:
    """The limits and budgets whose counts outlive a lost Redis."""
    for limit in snapshot.limits:
        match limit.window:
            case Calendar() as calendar:
                yield limit, calendar
            case Rolling(milliseconds=width) as rolling if width >= SHORTEST_REBUILT_MS:
                yield limit, rolling
            case _:
                pass
    for budget in snapshot.budgets:
        yield budget, budget.period


def _question(rule: Limit | Budget, since_ms: int, until_ms: int, bucket_of: int | None) -> Question:
    metric = Metric.MONEY if isinstance(rule, Budget) else rule.metric
    return Question(rule.scope, metric, since_ms, until_ms, rule.subject_id, rule.endpoint_id, bucket_of)


async def _forget(redis: Commands, keys: Keys) -> None:
    """Take out the counts of older epochs; what idempotency keys claimed stays claimed."""
    for kind in ("r", "p", "n"):
        pattern, cursor = f"{{{keys.deployment}}}:{kind}:*".encode(), b"0"
        while True:
            ((cursor, found),) = await redis.ask(
                command(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % _AT_ONCE)
            )
            if found:
                await redis.ask(command(b"UNLINK", *found))
            if cursor == b"0":
                break


def _written(key: bytes, fields: Mapping[str, int], kept_ms: int) -> Sequence[bytes]:
    """The commands that write one counter."""
    members = [part for name, value in fields.items() for part in (name.encode(), b"%d" % value)]
    return command(b"HSET", key, *members), command(b"PEXPIRE", key, b"%d" % kept_ms)


def counter_of(spent: Sum) -> dict[str, int]:
    """A budget's counter: what was spent, what of it came from requests, and what from credits, so that it is known."""
    fields = {"t": spent.amount, "b": spent.amount - spent.credited}
    return fields if not spent.credited else {**fields, "c": spent.credited}


def _parts(rows: Sequence[T]) -> Iterable[Sequence[T]]:
    for start in range(0, len(rows), _AT_ONCE):
        yield rows[start : start + _AT_ONCE]
