"""What waits to be told or entered, found by one question: each of those that act on it asks several of its own.

Where nothing waits, as mostly, that is all that an idle drainer asks for events.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.events.usage import SETTLED
from gateway.store.ledger import PostgresBooks

_QUESTION = """
SELECT EXISTS (SELECT FROM gateway.credits),
       EXISTS (SELECT FROM gateway.webhooks WHERE to_change IS NULL AND enabled AND events @> ARRAY[$1]),
       EXISTS (SELECT FROM gateway.webhook_deliveries WHERE next_at <= now())
"""


class Waiting(NamedTuple):
    """What there may be to do."""

    credited: bool
    """Credits or charges were ever entered."""
    listened: bool
    """A webhook wants to be told of settled requests."""
    due: bool
    """Deliveries are due."""


async def look(books: PostgresBooks) -> Waiting:
    """Ask once; raises Away."""
    (found,) = await books.fetch(_QUESTION, SETTLED)
    return Waiting(*found)
