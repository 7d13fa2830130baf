"""What must hold of the books at any time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg

from gateway.spool.drainer import Drainer

SUMS = """
    count(*) AS requests, sum(attempts) AS attempts, count(*) FILTER (WHERE stream) AS streams,
    sum(fresh_input) AS fresh_input, sum(cache_read) AS cache_read, sum(cache_write) AS cache_write, sum(output) AS output,
    sum(reasoning) AS reasoning, sum(prompt_tokens) AS prompt_tokens, sum(completion_tokens) AS completion_tokens,
    sum(cost_nano_usd) AS cost_nano_usd, sum(duration_us) AS duration_us, count(first_byte_us) AS first_bytes
"""
KEY = "principal_id, coalesce(key_id, ''), coalesce(group_id, ''), endpoint_id, coalesce(entity_id, ''), api, status"


async def drain(drainer: Drainer) -> None:
    """Turn until nothing more happens."""
    while await drainer.turn() or not drainer.settled():
        await asyncio.sleep(0)


async def assert_sums_are_right(database: asyncpg.Connection) -> None:
    """Both roll-ups equal the ledger in every column, and requests equal their attempts."""
    for table, unit in (("usage_hour", "hour"), ("usage_day", "day")):
        wrong = await database.fetch(f"""
            WITH truth AS (
                SELECT date_trunc('{unit}', admitted_at, 'UTC') AS period, {KEY}, {SUMS} FROM gateway.requests GROUP BY 1,2,3,4,5,6,7,8
            ), told AS (
                SELECT period, principal_id, key_id, group_id, endpoint_id, entity_id, api, status, requests, attempts, streams,
                       fresh_input, cache_read, cache_write, output, reasoning, prompt_tokens, completion_tokens,
                       cost_nano_usd, duration_us, first_bytes FROM gateway.{table}
            )
            (TABLE truth EXCEPT TABLE told) UNION ALL (TABLE told EXCEPT TABLE truth)
        """)
        assert wrong == []
    assert (
        await database.fetch("""
        SELECT request_id FROM gateway.requests AS request
        LEFT JOIN LATERAL (
            SELECT coalesce(sum(cost_nano_usd) FILTER (WHERE borne), 0) AS cost, count(*) FILTER (WHERE outcome <> 'excluded') AS made,
                   coalesce(sum(prompt_tokens + completion_tokens) FILTER (WHERE borne), 0) AS tokens
            FROM gateway.attempts WHERE attempts.request_id = request.request_id
        ) AS sums ON true
        WHERE cost_nano_usd <> cost OR attempts <> made OR prompt_tokens + completion_tokens <> tokens
    """)
        == []
    )
    assert (
        await database.fetch(
            "SELECT FROM gateway.attempts WHERE request_id NOT IN (SELECT request_id FROM gateway.requests)"
        )
        == []
    )


async def snapshot(database: asyncpg.Connection) -> list[list[asyncpg.Record]]:
    """Everything in the books."""
    return [
        await database.fetch(f"SELECT * FROM gateway.{table} ORDER BY 1, 2, 3")
        for table in ("requests", "attempts", "usage_hour", "usage_day")
    ]


def quarantined(root: Path) -> list[Path]:
    """The segments and bytes that were put aside."""
    return [path for path in sorted((root / "quarantine").glob("*")) if path.suffix != ".json"]
