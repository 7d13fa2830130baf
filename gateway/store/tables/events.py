"""Events of budgets, and who is told of them: one row an event, one a delivery that is owed.

An event's key is what it is about, so that no crash and no second host can raise it twice.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from gateway.store.tables.base import metadata
from gateway.store.tables.versioned import current_unique, versioned

budget_events = Table(
    "budget_events",
    metadata,
    Column("budget_id", UUID(as_uuid=False), nullable=False, comment="The budget."),
    Column("subject", Text, nullable=False, comment="Whose spend it is; empty for the deployment."),
    Column("period_start", DateTime(timezone=True), nullable=False, comment="Start of the budget's period."),
    Column("threshold_percent", SmallInteger, nullable=False, comment="The threshold that was reached."),
    Column("event_id", UUID(as_uuid=False), nullable=False, comment="Name of the event, as webhooks get it."),
    Column(
        "amount_nano_usd", BigInteger, nullable=False, comment="The budget's amount then, in 1e-9 dollars."
    ),
    Column("spent_nano_usd", BigInteger, nullable=False, comment="Settled spend when it was seen."),
    Column(
        "raised_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=text("now()"),
        comment="When it was seen.",
    ),
    PrimaryKeyConstraint("budget_id", "subject", "period_start", "threshold_percent"),
    comment="Thresholds of budgets that were reached: once for each budget, subject, period and threshold.",
)

webhooks = versioned(
    "webhooks",
    Column("name", Text, nullable=False, comment="What administrators call it."),
    Column("url", Text, nullable=False, comment="Where events are sent."),
    Column(
        "events",
        ARRAY(Text),
        nullable=False,
        server_default="{budget.threshold}",
        comment="Kinds of events that it gets.",
    ),
    Column(
        "secret_sealed", LargeBinary, nullable=False, comment="The secret that signs what it gets, sealed."
    ),
    Column(
        "enabled",
        Boolean,
        nullable=False,
        server_default=text("true"),
        comment="Whether it is sent anything.",
    ),
    current_unique("webhooks_name", "lower(name)"),
    comment="Who is told of events.",
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", UUID(as_uuid=False), primary_key=True, comment="The delivery."),
    Column("webhook_id", UUID(as_uuid=False), nullable=False, comment="The webhook that is owed it."),
    Column("event_id", UUID(as_uuid=False), nullable=False, comment="The event."),
    Column("body", Text, nullable=False, comment="What is sent: JSON, with no secret in it."),
    Column(
        "created_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=text("now()"),
        comment="When it became due.",
    ),
    Column(
        "next_at",
        DateTime(timezone=True),
        server_default=text("now()"),
        comment="When it is tried next; null: delivered or given up.",
    ),
    Column(
        "attempts", SmallInteger, nullable=False, server_default="0", comment="How often it was tried so far."
    ),
    Column("delivered_at", DateTime(timezone=True), comment="When the receiver took it."),
    Column("problem", Text, comment="Why the last try failed, or why it was given up."),
    CheckConstraint("delivered_at IS NULL OR next_at IS NULL", name="delivered_once"),
    Index("ix_webhook_deliveries_due", "next_at", postgresql_where=text("next_at IS NOT NULL")),
    Index("ix_webhook_deliveries_webhook", "webhook_id", "id"),
    comment="Events on their way to webhooks.",
)

usage_feeds = Table(
    "usage_feeds",
    metadata,
    Column("webhook_id", UUID(as_uuid=False), primary_key=True, comment="The webhook."),
    Column(
        "recorded_until",
        DateTime(timezone=True),
        nullable=False,
        comment="It was told of, or dropped, what entered the ledger before.",
    ),
    Column(
        "request_id",
        UUID(as_uuid=False),
        nullable=False,
        comment="And, of what entered at that very moment, requests up to this one.",
    ),
    Column(
        "told",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="Requests that were queued for it.",
    ),
    Column(
        "dropped",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="Requests that it is never told of, since its queue was full for too long.",
    ),
    comment="How far each webhook has been told of settled requests.",
)

__all__ = ["budget_events", "usage_feeds", "webhook_deliveries", "webhooks"]
