"""Retention of kept calls: whole days are dropped as tables; an endpoint's that go earlier, a few rows at a time. Of
kept responses likewise, by their endpoint's hours.

No endpoint's calls stay longer than the deployment keeps days, and none is locked for longer than a batch takes.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.store.reading import translated

logger = logging.getLogger(__name__)

AT_ONCE = 500
# An endpoint that is gone keeps the rule that it had last.
_SHORTER = text("""
    SELECT id::text, keep_days FROM (
        SELECT DISTINCT ON (id) id, (settings -> 'payloads' ->> 'keep_days')::int AS keep_days
        FROM gateway.endpoints ORDER BY id, from_change DESC
    ) AS latest WHERE keep_days < :days ORDER BY id
""")
_EXPIRE = text("""
    DELETE FROM gateway.kept_responses r WHERE r.kept_at <= now() - make_interval(hours => coalesce(
        (SELECT (e.settings -> 'rules' ->> 'keep_responses_hours')::int FROM gateway.endpoints e
          WHERE e.id = r.endpoint_id AND e.to_change IS NULL), 0))
""")
_FORGET = text("SELECT gateway.forget_payloads(:endpoint, :before, :at_most)")


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


async def forget_payloads(engine: AsyncEngine, keep: timedelta, *, now: datetime | None = None) -> int:
    """Delete what endpoints keep for less than `keep` and for longer than they say; how many. Raises Unavailable."""
    moment, forgotten = now or datetime.now(UTC), 0
    with translated():
        async with engine.connect() as connection:
            shorter = (await connection.execute(_SHORTER, {"days": keep.days})).all()
        for endpoint, days in shorter:
            given = {"endpoint": endpoint, "before": moment - timedelta(days=days), "at_most": AT_ONCE}
            gone = AT_ONCE
            while gone == AT_ONCE:
                # Each batch is a transaction of its own.
                async with engine.begin() as connection:
                    gone = await connection.scalar(_FORGET, given) or 0
                forgotten += gone
    if forgotten:
        logger.info("%d kept calls went before their days, as their endpoints say", forgotten)
    return forgotten


async def drop_old_turns(engine: AsyncEngine) -> int:
    """Delete responses that their endpoint keeps no longer, or that no endpoint keeps; how many. Raises Unavailable."""
    with translated():
        async with engine.begin() as connection:
            return (await connection.execute(_EXPIRE)).rowcount
