"""A budget that begins in the middle of its period counts what was spent in it before.

Looked at when budgets change, and again a little later for requests that were running then. Adding is idempotent, so
a crash, a second host or a rebuild between two looks changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import timedelta

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.counters.connection import RedisAway
from gateway.counters.earlier import EarlierSpend
from gateway.store.reading import translated
from gateway.store.spend import uncounted
from gateway.store.tables.rules import budgets as table
from policies.budgets import Budget
from policies.limits import ScopeKind
from policies.windows import edges

AGAIN_SECONDS = (0.0, 3.0, 15.0, 60.0, 600.0)
"""When a changed budget is looked at: at once, and as requests end that were admitted before the change."""
_DEFAULTS = frozenset({ScopeKind.USER_DEFAULT, ScopeKind.GROUP_DEFAULT})
log = logging.getLogger(__name__)


class Openings:
    """Finds budgets that changed lately, and has their counters take in what they missed."""

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
        self._known: dict[str, Budget] = {}
        self._began = False
        self._due: dict[str, list[int]] = {}

    async def turn(self) -> int:
        """Look at what is due; nano-dollars that were added. Raises Unavailable while PostgreSQL is away."""
        present = {each.id: each for each in self._budgets()}
        now = self._now_ms()
        if present != self._known or not self._began:
            changed = await self._changed(present)
            for each in changed:
                self._due[each] = [now + round(seconds * 1000) for seconds in AGAIN_SECONDS]
            self._known, self._began = present, True
        added = 0
        for each in [each for each, times in self._due.items() if times[0] <= now]:
            if each in present:
                try:
                    added += await self._take_in(present[each], now)
                except RedisAway as error:
                    log.info("budget %s waits for the counters: %s", each, error)
                    continue
            times = [when for when in self._due[each] if when > now]
            if times:
                self._due[each] = times
            else:
                del self._due[each]
        return added

    async def _changed(self, present: dict[str, Budget]) -> set[str]:
        if self._began:
            changed = {each.id for each in present.values() if each.id not in self._known}
            fewer = bool(self._known.keys() - present.keys())
        else:
            lately = func.now() - timedelta(seconds=AGAIN_SECONDS[-1])
            query = select(table.c.id).where(or_(table.c.valid_from > lately, table.c.valid_to > lately))
            with translated():
                async with self._engine.connect() as connection:
                    found = {row[0] for row in await connection.execute(query)}
            changed, fewer = found & present.keys(), bool(found - present.keys())
        if fewer:
            # Whom an own budget bound until now, the default binds from now on.
            changed |= {each.id for each in present.values() if each.scope in _DEFAULTS}
        return changed

    async def _take_in(self, budget: Budget, now: int) -> int:
        epoch = await self._counters.epoch()
        with translated():
            async with self._engine.connect() as connection:
                earlier = await uncounted(connection, budget, edges(budget.period, now))
        return await self._counters.add(epoch, budget, now, earlier)


__all__ = ["AGAIN_SECONDS", "Openings"]
