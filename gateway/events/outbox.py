"""Raise an event once, and put it into the queue of every webhook that wants it, in one transaction with its audit entry.

A queue is bounded: what a webhook cannot be told any more is kept as given up, and counted; nothing waits for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.ids import RequestIds
from gateway.ids import text as id_text
from gateway.store import audit
from gateway.store.reading import rows
from gateway.store.tables.events import budget_events, webhook_deliveries, webhooks
from policies.budgets import Budget
from policies.money import usd_of
from policies.windows import FOREVER_MS

THRESHOLD = "budget.threshold"
MOST_WAITING = 1_000
"""Deliveries that one webhook may be owed at a time."""
FULL = "given up: the queue was full"


@dataclass(frozen=True, slots=True)
class Crossing:
    """A threshold that settled spend has reached."""

    budget: Budget
    subject: str
    period: tuple[int, int]
    percent: int
    spent_nano_usd: int


async def raise_threshold(
    connection: AsyncConnection, crossing: Crossing, *, chain_key: bytes, ids: RequestIds, now: datetime
) -> bool:
    """Raise the event in the caller's transaction; False where it was raised before."""
    budget, (start, end) = crossing.budget, crossing.period
    event_id = id_text(ids.make())
    new = await connection.execute(
        insert(budget_events)
        .values(
            budget_id=budget.id,
            subject=crossing.subject,
            period_start=_instant(start),
            threshold_percent=crossing.percent,
            event_id=event_id,
            amount_nano_usd=budget.nano_usd,
            spent_nano_usd=crossing.spent_nano_usd,
            raised_at=now,
        )
        .on_conflict_do_nothing()
        .returning(budget_events.c.event_id)
    )
    if new.first() is None:
        return False
    told = {
        "budget_id": budget.id,
        "budget_name": budget.name,
        "scope": budget.scope.value,
        "subject": crossing.subject,
        "endpoint_id": budget.endpoint_id,
        "period": budget.period.unit.value,
        "time_zone": budget.period.zone,
        "period_start": _instant(start).isoformat(),
        "period_end": None if end >= FOREVER_MS else _instant(end).isoformat(),
        "threshold_percent": crossing.percent,
        "nano_usd": budget.nano_usd,
        "usd": usd_of(budget.nano_usd),
        "spent_nano_usd": crossing.spent_nano_usd,
        "spent_usd": usd_of(crossing.spent_nano_usd),
    }
    await queue(connection, THRESHOLD, event_id, told, ids=ids, now=now)
    await audit.append(
        connection,
        key=chain_key,
        actor="weighbridge",
        action="budget.threshold_reached",
        object_kind="budget",
        object_id=budget.id,
        after={"event_id": event_id, **told},
    )
    return True


async def queue(
    connection: AsyncConnection,
    kind: str,
    event_id: str,
    told: Mapping[str, Any],
    *,
    ids: RequestIds,
    now: datetime,
) -> int:
    """Owe an event to every enabled webhook that wants its kind; how many were too full to take it."""
    body = json.dumps(
        {"id": event_id, "type": kind, "created_at": now.isoformat(), "data": told},
        sort_keys=True,
        separators=(",", ":"),
    )
    full = 0
    for hook in await rows(connection, webhooks, webhooks.c.enabled, webhooks.c.events.contains([kind])):
        waiting = await connection.scalar(
            select(func.count())
            .select_from(webhook_deliveries)
            .where(webhook_deliveries.c.webhook_id == hook["id"], webhook_deliveries.c.next_at.is_not(None))
        )
        dropped = (waiting or 0) >= MOST_WAITING
        full += dropped
        await connection.execute(
            insert(webhook_deliveries).values(
                id=id_text(ids.make()),
                webhook_id=hook["id"],
                event_id=event_id,
                body=body,
                created_at=now,
                next_at=None if dropped else now,
                problem=FULL if dropped else None,
            )
        )
    return full


def _instant(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
