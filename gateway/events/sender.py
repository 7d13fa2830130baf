"""Sends what webhooks are owed: signed, tried again with growing pauses, given up after some hours.

A delivery is leased before it is sent, so that no two senders send it at once; it may arrive twice where a sender
died between the two, which receivers see by the event's id.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection

from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.events.post import PostFailed, post
from gateway.events.signature import HEADER, signed
from gateway.security.addresses import AddressRefused, Resolve, read_address
from gateway.security.sealing import SealError, Sealing
from gateway.store.reading import Row, rows, translated
from gateway.store.tables.events import webhook_deliveries, webhooks

AT_ONCE = 8
TRIES = 12
_FIRST_PAUSE, _LONGEST_PAUSE = 5, 14_400
_LEASE_SECONDS = 60
_KEPT_DAYS = 30
log = logging.getLogger(__name__)


def seal_subject(webhook_id: str) -> str:
    """What a webhook's secret is sealed for."""
    return f"webhook {webhook_id}"


# Put together once: asked twice a second, doing it each time was a third of the drainer's time.
_LEASE = (
    update(webhook_deliveries)
    .where(
        webhook_deliveries.c.id.in_(
            select(webhook_deliveries.c.id)
            .where(webhook_deliveries.c.next_at <= func.now())
            .order_by(webhook_deliveries.c.next_at)
            .limit(AT_ONCE)
            .with_for_update(skip_locked=True)
        )
    )
    .values(
        attempts=webhook_deliveries.c.attempts + 1,
        next_at=func.now() + text(f"interval '{_LEASE_SECONDS} seconds'"),
    )
    .returning(webhook_deliveries)
)


class WebhookSender:
    """Delivers events from the queue in the database."""

    def __init__(
        self,
        engine: AsyncEngine,
        sealing: Sealing,
        *,
        listed: Collection[str] = (),
        resolve: Resolve | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`listed` are the hosts that may be private or plain http."""
        self._engine = engine
        self._sealing = sealing
        self._listed = listed
        self._resolve = resolve
        self._clock = clock
        self.delivered = 0

    async def turn(self) -> int:
        """Send what is due, some at a time; how many were tried. Raises Unavailable while PostgreSQL is away."""
        due = await self._lease()
        if due:
            with translated():
                async with self._engine.connect() as connection:
                    hooks = {
                        row["id"]: row
                        for row in await rows(
                            connection, webhooks, webhooks.c.id.in_({each["webhook_id"] for each in due})
                        )
                    }
            await asyncio.gather(*(self._deliver(each, hooks.get(each["webhook_id"])) for each in due))
        return len(due)

    async def dropped(self) -> int:
        """How many deliveries of the last days were given up; also forgets those that are older."""
        c = webhook_deliveries.c
        with translated():
            async with self._engine.begin() as connection:
                await connection.execute(
                    webhook_deliveries.delete().where(
                        c.next_at.is_(None), c.created_at < func.now() - text(f"interval '{_KEPT_DAYS} days'")
                    )
                )
                found = await connection.scalar(
                    select(func.count())
                    .select_from(webhook_deliveries)
                    .where(c.next_at.is_(None), c.delivered_at.is_(None))
                )
        return found or 0

    async def _lease(self) -> list[Row]:
        with translated():
            async with self._engine.begin() as connection:
                leased = await connection.execute(_LEASE)
                return [dict(row._mapping) for row in leased]

    async def _deliver(self, delivery: Row, hook: Row | None) -> None:
        if hook is None or not hook["enabled"]:
            await self._give_up(delivery, "given up: the webhook is gone or disabled")
            return
        body = delivery["body"].encode()
        at = int(self._clock())
        try:
            secret = self._sealing.open(hook["secret_sealed"], seal_subject(hook["id"]))
            await post(
                read_address(hook["url"], self._listed),
                body,
                {
                    HEADER: signed(secret, body, at),
                    "weighbridge-event": delivery["event_id"],
                    "weighbridge-delivery": delivery["id"],
                },
                resolve=self._resolve,
            )
        except (AddressRefused, PostFailed, SealError) as error:
            if delivery["attempts"] >= TRIES:
                await self._give_up(delivery, f"given up after {TRIES} tries: {error}")
            else:
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE << (delivery["attempts"] - 1))
                log.info("webhook %s: %s; tried again in %d s", hook["id"], error, pause)
                await self._write(
                    delivery,
                    next_at=func.now() + text(f"interval '{pause} seconds'"),
                    problem=str(error),
                )
        else:
            self.delivered += 1
            await self._write(delivery, next_at=None, delivered_at=func.now(), problem=None)

    async def _give_up(self, delivery: Row, why: str) -> None:
        log.error(
            "webhook %s is not told of event %s (%s)", delivery["webhook_id"], delivery["event_id"], why
        )
        await self._write(delivery, next_at=None, problem=why)

    async def _write(self, delivery: Row, **values: object) -> None:
        with translated():
            async with self._engine.begin() as connection:
                await connection.execute(
                    update(webhook_deliveries)
                    .where(webhook_deliveries.c.id == delivery["id"])
                    .values(**values)
                )


__all__ = ["WebhookSender", "seal_subject"]
