"""Finds budgets whose settled spend has reached a threshold, from the ledger's own sums, after each batch that was posted.

What was found before is known by its key in the database, so a crash at any moment neither loses an event nor
raises one twice, and drainers of several hosts may all look.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.events.outbox import Crossing, raise_threshold
from gateway.ids import RequestIds
from gateway.store.reading import translated
from gateway.store.spend import Spend, spent
from policies.budgets import Budget
from policies.windows import edges

STRAGGLERS_MS = 3_600_000
"""So long after a period's end it is still looked at: streams that began in it end later, and spools may lag."""
_REMEMBERED = 100_000
log = logging.getLogger(__name__)
_Key = tuple[str, str, int, int]


class ThresholdWatch:
    """Raises the events of budgets' thresholds."""

    def __init__(
        self,
        engine: AsyncEngine,
        budgets: Callable[[], Iterable[Budget]],
        *,
        chain_key: bytes,
        now_ms: Callable[[], int],
        ids: RequestIds | None = None,
    ) -> None:
        """`budgets` gives those in force now, increases included."""
        self._engine = engine
        self._budgets = budgets
        self._chain_key = chain_key
        self._now_ms = now_ms
        self._ids = ids or RequestIds()
        self._raised: set[_Key] = set()
        self.count = 0
        """Events that this process raised."""

    async def turn(self) -> int:
        """Look at every budget once; how many events were new. Raises Unavailable while PostgreSQL is away."""
        found = 0
        now_ms = self._now_ms()
        for budget in self._budgets():
            for period in _periods(budget, now_ms) if budget.thresholds and budget.nano_usd else ():
                for crossing in await self._crossings(budget, period):
                    found += await self._raise(crossing, now_ms)
        return found

    async def _crossings(self, budget: Budget, period: tuple[int, int]) -> list[Crossing]:
        with translated():
            async with self._engine.connect() as connection:
                sums = await spent(
                    connection, budget, period, at_least=reaches(budget.nano_usd, budget.thresholds[0])
                )
        return [
            Crossing(budget, each.subject, period, percent, each.nano_usd)
            for each in sums
            for percent in reached(budget, each)
            if (budget.id, each.subject, period[0], percent) not in self._raised
        ]

    async def _raise(self, crossing: Crossing, now_ms: int) -> bool:
        with translated():
            async with self._engine.begin() as connection:
                new = await raise_threshold(
                    connection,
                    crossing,
                    chain_key=self._chain_key,
                    ids=self._ids,
                    now=datetime.fromtimestamp(now_ms / 1000, UTC),
                )
        if len(self._raised) >= _REMEMBERED:
            self._raised.clear()
        self._raised.add((crossing.budget.id, crossing.subject, crossing.period[0], crossing.percent))
        self.count += new
        if new:
            log.warning(
                "budget %s of %s has reached %d %%",
                crossing.budget.id,
                crossing.subject or "the deployment",
                crossing.percent,
            )
        return new


def reaches(amount: int, percent: int) -> int:
    """The least spend that reaches a threshold."""
    return max(1, -(-amount * percent // 100))


def reached(budget: Budget, spend: Spend) -> list[int]:
    """The thresholds that a spend has reached."""
    return [each for each in budget.thresholds if spend.nano_usd >= reaches(budget.nano_usd, each)]


def _periods(budget: Budget, now_ms: int) -> list[tuple[int, int]]:
    present = edges(budget.period, now_ms)
    if present[0] and now_ms - present[0] < STRAGGLERS_MS:
        return [edges(budget.period, present[0] - 1), present]
    return [present]
