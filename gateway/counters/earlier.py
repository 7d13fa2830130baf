"""Brings to budgets' counters what no call charges: what was spent before one began to count, credits and charges.

Never while the counters are being rebuilt, and never twice: the counter remembers how much of it came from the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.counters.connection import RedisAway
from gateway.counters.keys import Keys
from policies.budgets import Budget
from policies.windows import edges

_KEPT_MS = 259_200_000
_LONGEST_MS = 315_360_000_000
_SECONDS = 2.0


class EarlierSpend:
    """Writes to the counters of budgets, on a connection of its own."""

    def __init__(self, redis_url: str, *, deployment: str = "wb") -> None:
        self._keys = Keys(deployment)
        self._redis = Redis.from_url(redis_url, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS)
        scripts = files("gateway.counters")
        self._script = self._redis.register_script(scripts.joinpath("earlier.lua").read_text())
        self._credit = self._redis.register_script(scripts.joinpath("credit.lua").read_text())

    async def close(self) -> None:
        """Disconnect."""
        await self._redis.aclose()

    async def epoch(self) -> bytes:
        """The generation of the counters, to be asked for before the ledger is; raises RedisAway while there is none."""
        try:
            found = await self._redis.get(self._keys.epoch)
        except (RedisError, OSError) as error:
            raise RedisAway(str(error)) from error
        if not isinstance(found, bytes):
            raise RedisAway("the counters are being rebuilt")
        return found

    async def add(self, epoch: bytes, budget: Budget, now_ms: int, spent: Iterable[tuple[str, int]]) -> int:
        """Count what each subject spent earlier in the present period; what was added. Raises RedisAway."""
        start, end = edges(budget.period, now_ms)
        kept, added = min(end - now_ms + _KEPT_MS, _LONGEST_MS), 0
        for subject, nano_usd in spent:
            key = self._keys.period(budget.id, subject, start)
            try:
                more = int(await self._script(keys=[self._keys.epoch, key], args=[epoch, nano_usd, kept]))
            except (RedisError, OSError) as error:
                raise RedisAway(str(error)) from error
            if more < 0:
                raise RedisAway("the counters were rebuilt meanwhile")
            added += more
        return added

    async def credit(
        self, epoch: bytes, budget: Budget, now_ms: int, sums: Iterable[tuple[str, int]]
    ) -> None:
        """Count the credits and charges of the present period, subject by subject. Raises RedisAway."""
        start, end = edges(budget.period, now_ms)
        kept = min(end - now_ms + _KEPT_MS, _LONGEST_MS)
        for subject, nano_usd in sums:
            key = self._keys.period(budget.id, subject, start)
            try:
                done = int(await self._credit(keys=[self._keys.epoch, key], args=[epoch, nano_usd, kept]))
            except (RedisError, OSError) as error:
                raise RedisAway(str(error)) from error
            if done < 0:
                raise RedisAway("the counters were rebuilt meanwhile")
