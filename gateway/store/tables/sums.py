"""What the ledger's rows add up to: usage by hour and day, and what each budget was charged.

Sums change in the transaction that posts the rows, so that they are never of other rows than those that are there.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, PrimaryKeyConstraint, Table, Text

from gateway.store.tables.base import metadata
from gateway.store.tables.ledger import usage_columns

SUMS_KEY = ("period", "principal_id", "key_id", "group_id", "endpoint_id", "entity_id", "api", "status")
SUMS = (
    "requests", "attempts", "streams", "cache_hits", "not_reported", "fresh_input", "cache_read", "cache_write",
    "output", "reasoning", "cost_nano_usd", "duration_us", "queue_us", "first_bytes", "first_byte_us",
)  # fmt: skip


def _sums(name: str, period: str) -> Table:
    return Table(
        name,
        metadata,
        Column(
            "period",
            DateTime(timezone=True),
            nullable=False,
            comment=f"Start of the {period}, UTC, by `admitted_at`.",
        ),
        Column("principal_id", Text, nullable=False, comment="Who asked."),
        Column("key_id", Text, nullable=False, comment="API key; empty for none."),
        Column("group_id", Text, nullable=False, comment="Charged group; empty for none."),
        Column("endpoint_id", Text, nullable=False, comment="Endpoint."),
        Column(
            "entity_id", Text, nullable=False, comment="Served entity of the last attempt; empty for none."
        ),
        Column("api", Text, nullable=False, comment="Way in."),
        Column("status", Text, nullable=False, comment="How the requests ended."),
        Column("requests", BigInteger, nullable=False, comment="Number of requests."),
        Column("attempts", BigInteger, nullable=False, comment="Number of their calls upstream."),
        Column("streams", BigInteger, nullable=False, comment="Number of requests that were streams."),
        Column(
            "cache_hits", BigInteger, nullable=False, comment="Number answered by the gateway's own cache."
        ),
        Column(
            "not_reported", BigInteger, nullable=False, comment="Number whose usage was counted or estimated."
        ),
        *usage_columns(),
        Column(
            "cost_nano_usd", BigInteger, nullable=False, comment="Sum of what callers bear, in 1e-9 dollars."
        ),
        Column("duration_us", BigInteger, nullable=False, comment="Sum of durations."),
        Column("queue_us", BigInteger, nullable=False, comment="Sum of times spent waiting for a place."),
        Column(
            "first_bytes", BigInteger, nullable=False, comment="Number of requests that had a first byte."
        ),
        Column("first_byte_us", BigInteger, nullable=False, comment="Sum of their times to it."),
        PrimaryKeyConstraint(*SUMS_KEY),
        comment=f"Sums of `requests` by {period}, changed in the transaction that posts the rows.",
    )


usage_hour = _sums("usage_hour", "hour")
usage_day = _sums("usage_day", "day")


def balance_columns() -> list[Column[Any]]:
    return [
        Column("limit_id", Text, nullable=False, comment="The budget."),
        Column("subject", Text, nullable=False, comment="Whose spend it is; empty for the deployment."),
        Column(
            "period",
            DateTime(timezone=True),
            nullable=False,
            comment="Start of the budget's period, by `admitted_at`.",
        ),
        Column("requests", BigInteger, nullable=False, comment="Requests that it was charged for."),
        Column("nano_usd", BigInteger, nullable=False, comment="What they cost, in 1e-9 dollars."),
    ]


balances = Table(
    "balances",
    metadata,
    *balance_columns(),
    PrimaryKeyConstraint("limit_id", "subject", "period"),
    comment="What each budget was charged, by subject and period: changed in the transaction that posts the rows.",
)

__all__ = ["SUMS", "SUMS_KEY", "balance_columns", "balances", "usage_day", "usage_hour"]
