"""A call's place at an entity that has fewer of them than there are workers: one of all, which other workers may have.

Whoever leaves without one has left the worker's own places too.
"""

from __future__ import annotations

import asyncio

from gateway.pipeline.deadlines import left_ms
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.line import Line
from gateway.routing.places import Places, Share
from gateway.routing.seats import SeatsAway
from policies.catalog import ServedEntity

_ASKED_AGAIN = 0.05
"""Seconds, on average, after which a place that another worker has is asked for once more."""


async def seat_of_all(
    line: Line, exchange: Exchange, entity: ServedEntity, places: Places, came_ns: int
) -> bytes | None:
    """The place, waited for where there is a queue; None where nobody counts them, and this worker has one. Raises Full."""
    traffic, rules, who = line.traffic, entity.rules, exchange.caller.principal.id
    began, left = line.monotonic_ns(), left_ms(line, exchange)
    latest = came_ns + rules.queue_ms * 1_000_000
    if left is not None:
        latest = min(latest, began + left * 1_000_000)
    try:
        while (seat := await traffic.seats.take(entity.id, rules.concurrency)) is None:
            if not rules.queue:
                raise places.taken()
            if line.monotonic_ns() >= latest:
                raise places.too_slow()
            await asyncio.sleep(_ASKED_AGAIN * (0.5 + line.draw()))
    except SeatsAway:
        if places.running > Share.of(rules, traffic.workers, traffic.rank).places:
            places.unused(who)
            raise places.taken() from None
        return None
    except BaseException:
        places.unused(who)
        raise
    finally:
        exchange.queue_ns += line.monotonic_ns() - began
    return seat
