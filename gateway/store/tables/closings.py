"""Weeks of the ledger that retention has dropped, and what each had added to the sums.

The sums keep what a dropped week added; with these rows they can still be told apart and verified.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Date, DateTime, PrimaryKeyConstraint, Table, Text, text
from sqlalchemy.dialects.postgresql import UUID

from gateway.store.tables.base import metadata
from gateway.store.tables.sums import SUMS, SUMS_KEY, balance_columns


def _week() -> Column[Any]:
    return Column("week", Date, nullable=False, comment="The dropped week.")


ledger_closings = Table(
    "ledger_closings",
    metadata,
    Column(
        "week",
        Date,
        nullable=False,
        comment="Monday of the week, UTC, whose requests and attempts were dropped.",
    ),
    Column("low", UUID, nullable=False, comment="The least request id of that week."),
    Column(
        "high",
        UUID,
        nullable=False,
        comment="The least request id after it: no row below it is taken in any more.",
    ),
    Column(
        "closed_at", DateTime(timezone=True), nullable=False, server_default=text("now()"), comment="When."
    ),
    Column("requests", BigInteger, nullable=False, comment="Requests that it held."),
    Column("attempts", BigInteger, nullable=False, comment="Attempts that it held."),
    Column("prompt_tokens", BigInteger, nullable=False, comment="Sum of its requests' input."),
    Column("completion_tokens", BigInteger, nullable=False, comment="Sum of its requests' output."),
    Column(
        "cost_nano_usd",
        BigInteger,
        nullable=False,
        comment="Sum of what its requests' callers bear, in 1e-9 dollars.",
    ),
    Column(
        "attempts_nano_usd",
        BigInteger,
        nullable=False,
        comment="Sum of what its attempts cost, in 1e-9 dollars.",
    ),
    Column(
        "requests_digest",
        Text,
        nullable=False,
        comment="SHA-256 of the SHA-256s of its requests as text, by id.",
    ),
    Column("attempts_digest", Text, nullable=False, comment="The same of its attempts."),
    PrimaryKeyConstraint("week"),
    comment="Weeks of the ledger that retention has dropped; the audit's chain has the same, and digests of their sums.",
)

closed_usage = Table(
    "closed_usage",
    metadata,
    _week(),
    Column(
        "period",
        DateTime(timezone=True),
        nullable=False,
        comment="Start of the hour, UTC, by `admitted_at`.",
    ),
    *(Column(name, Text, nullable=False, comment="As in `usage_hour`.") for name in SUMS_KEY[1:]),
    *(Column(name, BigInteger, nullable=False, comment="As in `usage_hour`.") for name in SUMS),
    PrimaryKeyConstraint("week", *SUMS_KEY),
    comment="What a dropped week added to `usage_hour` and `usage_day`.",
)

closed_balances = Table(
    "closed_balances",
    metadata,
    _week(),
    *balance_columns(),
    PrimaryKeyConstraint("week", "limit_id", "subject", "period"),
    comment="What a dropped week added to `balances`.",
)

closed_spools = Table(
    "closed_spools",
    metadata,
    _week(),
    Column("worker_id", UUID, nullable=False, comment="A worker's spool."),
    Column(
        "records",
        BigInteger,
        nullable=False,
        comment="Its numbered intents and settlements that the week held.",
    ),
    PrimaryKeyConstraint("week", "worker_id"),
    comment="What a dropped week held of each spool's records.",
)

__all__ = ["closed_balances", "closed_spools", "closed_usage", "ledger_closings"]
