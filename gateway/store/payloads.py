"""Retention of kept calls: whole days are dropped as tables, never row by row."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.store.reading import translated

logger = logging.getLogger(__name__)


async def drop_payload_days(engine: AsyncEngine, keep: timedelta, *, now: datetime | None = None) -> int:
    """Drop the days that ended longer than `keep` ago; how many. Raises Unavailable."""
    before = (now or datetime.now(UTC)) - keep
    with translated():
        async with engine.begin() as connection:
            dropped = await connection.scalar(
                text("SELECT gateway.drop_payload_days(:before)"), {"before": before.date()}
            )
    if dropped:
        logger.info("%d days of kept calls before %s are dropped", dropped, before.date())
    return dropped or 0
