"""A few requests that have ended, posted as the drainer posts them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from gateway.spool.books import Place, Posting
from gateway.spool.joining import Entry, settled
from gateway.store.ledger import PostgresBooks
from tests.spool.making import attempt, intent, settlement

WORKER = b"w" * 16


def ms(text: str) -> int:
    """A moment in UTC, in milliseconds."""
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def ended(at: str, *, cost: int = 207, end: dict[str, Any] | None = None, **changes: Any) -> Posting:
    """One request that was admitted then and cost so much."""
    begun = intent(admitted_at_ms=ms(at), **changes)
    last = attempt(begun, cost_nano_usd=cost)
    return settled(Entry(begun, Place(0, 0)), settlement(begun, last, **(end or {})), WORKER)


async def post(url: str, *postings: Posting) -> None:
    """Into the ledger, all at once."""
    books = PostgresBooks(url, host="here")
    try:
        assert len(await books.post(postings, [])) == len(postings)
    finally:
        await books.close()
