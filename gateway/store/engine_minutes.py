"""Minutes of engines' own time in PostgreSQL.

A minute is written once it is over. Where two looked at the same engine, whoever saw more of the minute is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from engines.local.meter import Worked
from gateway.store.reading import translated

_INSERT = text("""
    INSERT INTO gateway.engine_minutes AS kept (engine, minute, watched_us, away_us, busy_us, present_us, steps,
        prompt_tokens, cached_tokens, answer_tokens)
    VALUES (:engine, :minute, :watched, :away, :busy, :present, :steps,
        :prompt_tokens, :cached_tokens, :answer_tokens)
    ON CONFLICT (minute, engine) DO UPDATE SET watched_us = excluded.watched_us, away_us = excluded.away_us,
        busy_us = excluded.busy_us, present_us = excluded.present_us, steps = excluded.steps,
        prompt_tokens = excluded.prompt_tokens, cached_tokens = excluded.cached_tokens,
        answer_tokens = excluded.answer_tokens
    WHERE kept.watched_us < excluded.watched_us
""")
_FORGET = text("DELETE FROM gateway.engine_minutes WHERE minute < :before")


@dataclass(frozen=True, slots=True)
class EngineMinute:
    """One engine's minute, or what was seen of it."""

    engine: str
    minute: datetime
    worked: Worked


async def keep_minutes(engine: AsyncEngine, minutes: Sequence[EngineMinute]) -> None:
    """Write them; raises Unavailable."""
    with translated():
        async with engine.begin() as connection:
            await connection.execute(
                _INSERT,
                [{"engine": each.engine, "minute": each.minute, **each.worked._asdict()} for each in minutes],
            )


async def forget_minutes(engine: AsyncEngine, keep: timedelta, now: datetime) -> None:
    """Delete what is older; raises Unavailable."""
    with translated():
        async with engine.begin() as connection:
            await connection.execute(_FORGET, {"before": now - keep})
