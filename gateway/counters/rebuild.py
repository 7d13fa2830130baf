"""Bring lost counters back from the ledger, then open a new epoch: one worker at a time does it, for all.

Until the epoch is open no script charges anything, and what the sums have of each worker is written beside them, so
that nothing is counted twice. A rebuild that another has overtaken, or under which Redis was wiped, opens nothing.
Budgets, calendar limits and windows of an hour and longer come back; shorter windows begin anew.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from gateway.counters.commands import Commands
from gateway.counters.connection import RedisAway
from gateway.counters.errands import SHORTEST_REBUILT_MS
from gateway.counters.keys import Keys
from gateway.counters.link import Link
from gateway.counters.lua import Script, command
from gateway.errors import Unavailable
from policies.budgets import Budget
from policies.catalog import Snapshot
from policies.limits import Limit, Metric, ScopeKind
from policies.windows import SUB_BUCKETS, Calendar, Rolling, edges

_log = logging.getLogger(__name__)

DRAIN_SECONDS = 5.0
_LONGEST_MS = 315_360_000_000
_KEPT_MS = 259_200_000
_AT_ONCE = 1000
_EPOCH_KEPT_MS = 2_592_000_000
_pack = msgspec.msgpack.Encoder().encode
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
    subject_id: str | None = None
    endpoint_id: str | None = None
    bucket_of: int | None = None
    """Width of a sliding window: sums by its sub-buckets."""


class LedgerView(Protocol):
    """The ledger as it was at one moment; every method raises LedgerAway."""

    async def ask(self, question: Question) -> Sequence[Sum]:
        """Sums by subject, and by sub-bucket where asked."""
        ...

    async def cuts(self) -> Mapping[str, int]:
        """Of each worker's settlements, the number up to which they are in the sums; none beyond it is."""
        ...

    async def earlier(self, budgets: Iterable[Budget], now_ms: int) -> Mapping[str, Mapping[str, int]]:
        """Of budgets that changed lately, by subject: what the sums have of requests that never charged them."""
        ...


class LedgerSums(Protocol):
    """The ledger, as far as counters are rebuilt from it; every method raises LedgerAway."""

    def alone(self) -> AbstractAsyncContextManager[LedgerSums]:
        """Hold the deployment's lock for rebuilding; asks within it share its connection."""
        ...

    async def drained(self, until_ms: int, seconds: float) -> bool:
        """Wait until what was written into the known spools by then is posted; False when that took too long."""
        ...

    def view(self) -> AbstractAsyncContextManager[LedgerView]:
        """All answers within it are of one moment, the present."""
        ...


class Rebuild:
    """The port Opener: rebuilds from the ledger."""

    def __init__(self, redis_url: str, ledger: LedgerSums, snapshot: Callable[[], Snapshot]) -> None:
        """`snapshot` gives the present configuration, and raises while there is none."""
        self._redis_url = redis_url
        self._ledger = ledger
        self._snapshot = snapshot
        self._begin, self._restore = Script.named("begin"), Script.named("restore")

    async def rebuild(self, link: Link, run_id: str) -> str:
        """Rebuild unless another worker has; gives the epoch. Raises RedisAway where it cannot be done now."""
        token = secrets.token_hex(8).encode()
        try:
            async with self._ledger.alone() as ledger, Commands(self._redis_url) as redis:
                begin = self._begin.call([link.keys.epoch, link.keys.rebuild], [f"{run_id}.".encode(), token])
                (held,) = await redis.ask(self._begin.spelled_out(begin))
                if held:
                    return held.decode()
                # Settlements that Redis took, and that their workers have forgotten since, must be in the sums.
                if not await ledger.drained(link.now_ms(), DRAIN_SECONDS):
                    _log.warning(
                        "Rebuilding the counters before all spools are drained: what is missing is not counted"
                    )
                restoring = _Restoring(redis, self._restore, link.keys, token)
                await restoring.forget()
                epoch = link.new_epoch(run_id)
                async with ledger.view() as view:
                    written = await restoring.write(view, self._snapshot(), link.now_ms())
                    await restoring.cuts(epoch, await view.cuts())
                epoch = await link.open_epoch(epoch, token)
                _log.info("Rebuilt %d counters from the ledger", written)
                return epoch
        except LedgerAway as error:
            raise RedisAway(f"the counters cannot be rebuilt while the ledger is away: {error}") from error
        except Unavailable as error:
            raise RedisAway(f"the counters cannot be rebuilt: {error}") from error


Entry = Sequence[int | str] | bool
"""False takes a key out; else how long it is kept, in ms, and its fields and values in turn."""


class _Restoring:
    """What one rebuild writes; raises RedisAway once it is not the rebuild any more."""

    def __init__(self, redis: Commands, script: Script, keys: Keys, token: bytes) -> None:
        self._redis = redis
        self._script = script
        self._keys = keys
        self._token = token

    async def forget(self) -> None:
        """Take out the counts of older epochs and what was remembered of them; claimed idempotency keys stay claimed."""
        for kind in ("r", "p", "n", "q"):
            pattern, cursor = f"{{{self._keys.deployment}}}:{kind}:*".encode(), b"0"
            while True:
                ((cursor, found),) = await self._redis.ask(
                    command(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % _AT_ONCE)
                )
                await self._put([(key, False) for key in found])
                if cursor == b"0":
                    break

    async def write(self, view: LedgerView, snapshot: Snapshot, now_ms: int) -> int:
        """The counters as of now; how many."""
        earlier = await view.earlier(snapshot.budgets, now_ms)
        written = 0
        for rule, window in rules_to_rebuild(snapshot):
            if isinstance(window, Calendar):
                start, end = edges(window, now_ms)
                sums = await view.ask(_question(rule, start, None))
                before = earlier.get(rule.id)
                kept_ms = min(end - now_ms + _KEPT_MS, _LONGEST_MS)
                await self._put(
                    [
                        (
                            self._keys.period(rule.id, each.subject, start),
                            _entry(
                                kept_ms,
                                counter_of(each, None if before is None else before.get(each.subject, 0)),
                            ),
                        )
                        for each in sums
                    ]
                )
                written += len(sums)
                continue
            width = window.milliseconds
            head = now_ms * SUB_BUCKETS // width
            since = (head - SUB_BUCKETS) * width // SUB_BUCKETS
            by_subject: dict[str, dict[int, int]] = {}
            for each in await view.ask(_question(rule, since, width)):
                if head - SUB_BUCKETS <= each.bucket <= head:
                    by_subject.setdefault(each.subject, {})[each.bucket] = each.amount
            entries: list[tuple[bytes, Entry]] = []
            for subject, buckets in by_subject.items():
                fields = {str(bucket % (SUB_BUCKETS + 1)): amount for bucket, amount in buckets.items()}
                counted = {"h": head, "t": sum(buckets.values()), **fields}
                entries.append(
                    (self._keys.window(rule.id, subject), _entry(width + width // 20 + 1000, counted))
                )
            await self._put(entries)
            written += len(by_subject)
        return written

    async def cuts(self, epoch: str, cuts: Mapping[str, int]) -> None:
        """What the sums have of each worker."""
        key = self._keys.cuts(epoch)
        await self._put([(key, _entry(_EPOCH_KEPT_MS, dict(some))) for some in _parts(list(cuts.items()))])

    async def _put(self, entries: Sequence[tuple[bytes, Entry]]) -> None:
        for some in _parts(entries):
            keys = [self._keys.rebuild, *(key for key, _ in some)]
            call = self._script.call(keys, [_pack((self._token.decode(), [entry for _, entry in some]))])
            (done,) = await self._redis.ask(self._script.spelled_out(call))
            if not done:
                raise RedisAway("the counters were lost again while they were rebuilt")


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


def _question(rule: Limit | Budget, since_ms: int, bucket_of: int | None) -> Question:
    metric = Metric.MONEY if isinstance(rule, Budget) else rule.metric
    return Question(rule.scope, metric, since_ms, rule.subject_id, rule.endpoint_id, bucket_of)


def _entry(kept_ms: int, fields: Mapping[str, int]) -> Entry:
    return [kept_ms, *(part for name, value in fields.items() for part in (name, str(value)))]


def counter_of(spent: Sum, earlier: int | None = None) -> dict[str, int]:
    """A budget's counter: what was spent, what of it came from requests, and what from credits, so that it is known.

    `earlier` of it came from requests that never charged the budget; more of them may yet end.
    """
    fields = {"t": spent.amount, "b": spent.amount - spent.credited}
    if spent.credited:
        fields["c"] = spent.credited
    return fields if earlier is None else {**fields, "u": earlier}


def _parts(rows: Sequence[T]) -> Iterable[Sequence[T]]:
    for start in range(0, len(rows), _AT_ONCE):
        yield rows[start : start + _AT_ONCE]
