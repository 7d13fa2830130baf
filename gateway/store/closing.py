"""Retention of the ledger: a week is closed, its closing record chained into the audit, and dropped, in one transaction.

Either all of that happens or none of it. What the week added to the roll-ups and balances stays beside them, so that
these can still be verified to the last nano-dollar.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.store import audit
from gateway.store.reading import translated

logger = logging.getLogger(__name__)

_AT_ONCE = 8
"""Weeks of one look: the rest waits for the next one."""


async def close_weeks(
    engine: AsyncEngine, key: bytes, keep: timedelta, *, now: datetime | None = None
) -> list[str]:
    """Close and drop what ended longer than `keep` ago; the weeks. `engine` must allow for long statements."""
    before = (now or datetime.now(UTC)) - keep
    closed: list[str] = []
    with translated():
        while len(closed) < _AT_ONCE:
            async with engine.begin() as connection:
                # Of what has no partition only the oldest week is told: one is asked for at a time.
                week = await connection.scalar(
                    text("SELECT gateway.weeks_before(:before) AS week LIMIT 1"), {"before": before}
                )
            if week is None:
                break
            async with engine.begin() as connection:
                told = await connection.scalar(text("SELECT gateway.close_week(:week)"), {"week": week})
                await audit.append(
                    connection,
                    key=key,
                    actor="weighbridge",
                    action="ledger.close",
                    object_kind="ledger_week",
                    object_id=week.isoformat(),
                    after=told,
                    reason=f"kept for {keep.days} days",
                )
                await connection.execute(text("SELECT gateway.drop_week(:week)"), {"week": week})
            closed.append(week.isoformat())
            logger.info("the ledger's week of %s is closed and dropped", week)
    return closed
