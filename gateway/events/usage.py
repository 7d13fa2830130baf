"""Tells webhooks of settled requests, some hundred at a time, read from the ledger behind whoever posts.

A webhook's place in the ledger moves in the transaction that queues what it is told: each request is queued once for it,
whoever dies. A webhook that is slow is waited for; one that takes nothing for a day loses the oldest, which is counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gateway.ids import RequestIds
from gateway.ids import text as id_text
from gateway.store.reading import rows, translated
from gateway.store.tables.events import usage_feeds, webhook_deliveries, webhooks
from policies.money import usd_of

SETTLED = "usage.settled"
AT_ONCE = 200
"""Requests of one event."""
WAITING_AT_MOST = 50
"""Events that one webhook may be owed before its place in the ledger waits for it."""
KEPT = timedelta(days=1)
_NONE = "00000000-0000-0000-0000-000000000000"

# A row's time is the begin of the transaction that posted it, so those that run may still commit rows that look older.
# Of sessions that may post and cannot be seen (another role's), the longest that a posting can take is assumed.
_HORIZON = """
SELECT least(
    clock_timestamp() - interval '1 second',
    min(a.xact_start),
    CASE WHEN bool_or(a.state IS NULL AND has_table_privilege(a.usesysid, 'gateway.requests', 'INSERT'))
         THEN clock_timestamp() - interval '3 minutes' END
) FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
"""
_SETTLED = """
SELECT request_id, recorded_at, admitted_at, ended_at, principal_id, principal_kind, principal_name, key_id, group_id,
       endpoint_id, endpoint_name, entity_id, entity_name, model, api, stream, status, http_status, error_code, finish_reason,
       stopped_by, fresh_input, cache_read, cache_write, output, reasoning, usage_source, price_id, cost_nano_usd, tags,
       client_request_id, end_user, first_byte_us, duration_us, attempts
FROM gateway.requests
WHERE recorded_at >= :since AND recorded_at < :until
  AND (recorded_at, request_id) > (:since, CAST(:request_id AS uuid))
ORDER BY recorded_at, request_id LIMIT :size
"""
_TOO_OLD = """
SELECT count(*) FROM gateway.requests
WHERE recorded_at >= :since AND recorded_at < :until
  AND (recorded_at, request_id) > (:since, CAST(:request_id AS uuid))
"""
_NOT_TOLD = frozenset({"recorded_at"})


class UsageFeed:
    """Queues events of settled requests for every webhook that wants them."""

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        ids: RequestIds | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._ids = ids or RequestIds()
        self._clock = clock

    async def turn(self) -> int:
        """Queue one event for each webhook that is behind; how many. Raises Unavailable while PostgreSQL is away."""
        with translated():
            async with self._engine.connect() as connection:
                hooks = await rows(
                    connection, webhooks, webhooks.c.enabled, webhooks.c.events.contains([SETTLED])
                )
            queued = 0
            for hook in hooks:
                async with self._engine.begin() as connection:
                    queued += await self._tell(connection, hook["id"])
        return queued

    async def counts(self) -> tuple[int, int]:
        """Requests that webhooks were told of and that were dropped, in all."""
        c = usage_feeds.c
        with translated():
            async with self._engine.connect() as connection:
                found = (
                    await connection.execute(
                        select(func.coalesce(func.sum(c.told), 0), func.coalesce(func.sum(c.dropped), 0))
                    )
                ).one()
        return int(found[0]), int(found[1])

    async def _tell(self, connection: AsyncConnection, webhook_id: str) -> bool:
        c = usage_feeds.c
        # Whoever begins to listen is told of what comes, not of all that was.
        await connection.execute(
            insert(usage_feeds)
            .values(webhook_id=webhook_id, recorded_until=func.clock_timestamp(), request_id=_NONE)
            .on_conflict_do_nothing()
        )
        place = (
            await connection.execute(
                select(usage_feeds).where(c.webhook_id == webhook_id).with_for_update(skip_locked=True)
            )
        ).first()
        if place is None:
            # Another host's drainer is at it.
            return False
        until = (await connection.execute(text(_HORIZON))).scalar_one()
        given = {"since": place.recorded_until, "request_id": place.request_id, "until": until}
        if await self._waiting(connection, webhook_id) >= WAITING_AT_MOST:
            oldest = until - KEPT
            if place.recorded_until < oldest:
                dropped = await connection.scalar(text(_TOO_OLD), {**given, "until": oldest})
                await self._move(connection, webhook_id, oldest, _NONE, dropped=dropped or 0)
            return False
        found = (await connection.execute(text(_SETTLED), {**given, "size": AT_ONCE})).mappings().all()
        if not found:
            return False
        last = found[-1]
        await self._queue(connection, webhook_id, [_told(each) for each in found])
        await self._move(
            connection, webhook_id, last["recorded_at"], str(last["request_id"]), told=len(found)
        )
        return True

    async def _waiting(self, connection: AsyncConnection, webhook_id: str) -> int:
        c = webhook_deliveries.c
        query = (
            select(func.count())
            .select_from(webhook_deliveries)
            .where(c.webhook_id == webhook_id, c.next_at.is_not(None))
        )
        return await connection.scalar(query) or 0

    async def _queue(self, connection: AsyncConnection, webhook_id: str, requests: list[Any]) -> None:
        event_id = id_text(self._ids.make())
        now = self._clock()
        body = json.dumps(
            {"id": event_id, "type": SETTLED, "created_at": now.isoformat(), "data": {"requests": requests}},
            sort_keys=True,
            separators=(",", ":"),
        )
        await connection.execute(
            insert(webhook_deliveries).values(
                id=id_text(self._ids.make()),
                webhook_id=webhook_id,
                event_id=event_id,
                body=body,
                created_at=now,
            )
        )

    async def _move(
        self,
        connection: AsyncConnection,
        webhook_id: str,
        until: datetime,
        request_id: str,
        *,
        told: int = 0,
        dropped: int = 0,
    ) -> None:
        c = usage_feeds.c
        await connection.execute(
            usage_feeds.update()
            .where(c.webhook_id == webhook_id)
            .values(
                recorded_until=until, request_id=request_id, told=c.told + told, dropped=c.dropped + dropped
            )
        )


def _told(row: Mapping[Any, Any]) -> dict[str, Any]:
    told = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in row.items()
        if name not in _NOT_TOLD
    }
    return {**told, "request_id": str(row["request_id"]), "cost_usd": usd_of(row["cost_nano_usd"])}


__all__ = ["AT_ONCE", "KEPT", "SETTLED", "WAITING_AT_MOST", "UsageFeed"]
