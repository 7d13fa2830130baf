"""What was spent, what was given back and both together, wherever auditors read sums; and which calls were batch work."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime
from typing import Any

import asyncpg

from tests.auditor.posting import ended, post

CREDIT = """
INSERT INTO gateway.credits (id, entered_by, reason, nano_usd, counts_at, principal_id, group_id, endpoint_id)
VALUES ($1, 'ada', 'an outage', $2, $3, $4, $5, $6)
"""


async def credit(owner: asyncpg.Connection, nano_usd: int, at: str, *of: str | None) -> None:
    moment = datetime.fromisoformat(at).replace(tzinfo=UTC)
    await owner.execute(CREDIT, uuid.uuid4(), nano_usd, moment, *of)


async def test_credits_stand_beside_the_spend_of_their_day_group_and_endpoint(
    database_url: str, owner: asyncpg.Connection, auditor: asyncpg.Connection
) -> None:
    mine: dict[str, Any] = {"principal_id": "u_credited", "endpoint_id": "e_1", "group_id": "g_credited"}
    await post(
        database_url,
        ended("2026-03-10T10:00:00", cost=700, **mine, batch=True),
        ended("2026-03-10T11:00:00", cost=300, **mine),
        ended("2026-03-11T00:00:00", cost=50, principal_id="u_credited", endpoint_id="e_1"),
    )
    await credit(owner, -400, "2026-03-10T23:59:59", "u_credited", "g_credited", "e_1")
    await credit(owner, 25, "2026-03-10T00:00:00", "u_credited", "g_credited", "e_1")
    # For a day on which nothing was used, and for no endpoint in particular.
    await credit(owner, -10, "2026-03-12T12:00:00", "u_credited", None, None)

    spend = await auditor.fetch(
        "SELECT * FROM billing.spend WHERE principal_id = 'u_credited' ORDER BY period, endpoint_id"
    )
    assert [
        (row["usage_date"], row["group_id"], row["endpoint_id"], row["requests"], row["cost_nano_usd"], row["credits_nano_usd"], row["net_nano_usd"])
        for row in spend
    ] == [
        (date(2026, 3, 10), "g_credited", "e_1", 2, 1000, -375, 625),
        (date(2026, 3, 11), None, "e_1", 1, 50, 0, 50),
        (date(2026, 3, 12), None, None, 0, 0, -10, -10),
    ]  # fmt: skip
    assert [row["net_usd"] * 10**9 for row in spend] == [625, 50, -10]
    [month] = await auditor.fetch("SELECT * FROM billing.group_costs WHERE group_id = 'g_credited'")
    assert (month["month"], month["requests"], month["cost_nano_usd"], month["credits_nano_usd"], month["net_nano_usd"]) == (
        date(2026, 3, 1), 2, 1000, -375, 625,
    )  # fmt: skip
    [day] = await auditor.fetch("SELECT * FROM billing.daily_group_usage WHERE group_id = 'g_credited'")
    assert (day["usage_date"], day["cost_nano_usd"], day["credits_usd"] * 10**9, day["net_nano_usd"]) == (
        date(2026, 3, 10), 1000, -375, 625,
    )  # fmt: skip
    batch = await auditor.fetch(
        "SELECT batch, cost_nano_usd FROM serving.endpoint_usage WHERE group_id = 'g_credited' ORDER BY request_time"
    )
    assert [tuple(row) for row in batch] == [(True, 700), (False, 300)]
