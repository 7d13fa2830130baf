"""Tells budgets' counters of the credits and charges that were entered.

Looked at when an entry, a budget or the counters' epoch is new. Each counter is brought to the sum of its period, so
that a crash, a second host or a rebuild between two looks changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.counters.connection import RedisAway
from gateway.counters.earlier import EarlierSpend
from gateway.store.reading import translated
from gateway.store.spend import credited
from gateway.store.tables.credits import credits
from policies.budgets import Budget
from policies.windows import edges

log = logging.getLogger(__name__)


class CreditWatch:
    """Brings the counters of budgets up to what was entered."""

    def __init__(
        self,
        engine: AsyncEngine,
        counters: EarlierSpend,
        budgets: Callable[[], Iterable[Budget]],
        *,
        now_ms: Callable[[], int],
    ) -> None:
        """`budgets` gives those in force now."""
        self._engine = engine
        self._counters = counters
        self._budgets = budgets
        self._now_ms = now_ms
        self._done: tuple[int, bytes, tuple[Budget, ...]] | None = None

    async def turn(self) -> bool:
        """Look once; whether there was something to tell. Raises Unavailable while PostgreSQL is away."""
        with translated():
            async with self._engine.connect() as connection:
                latest = await connection.scalar(select(func.max(credits.c.number)))
        if latest is None:
            return False
        try:
            seen = latest, await self._counters.epoch(), tuple(self._budgets())
            if seen == self._done:
                return False
            for budget in seen[2]:
                now = self._now_ms()
                with translated():
                    async with self._engine.connect() as connection:
                        sums = await credited(connection, budget, edges(budget.period, now))
                await self._counters.credit(seen[1], budget, now, sums)
        except RedisAway as error:
            log.info("credits wait for the counters: %s", error)
            return False
        self._done = seen
        return True


__all__ = ["CreditWatch"]
