"""Corrections of what was spent: entries beside the ledger's rows, only ever added.

An entry names what a row of the ledger names, so that every sum over rows can take it in the same way.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import UUID

from gateway.store.tables.base import metadata

credits = Table(
    "credits",
    metadata,
    Column("id", UUID(as_uuid=False), primary_key=True, comment="The entry (UUIDv7)."),
    Column(
        "number",
        BigInteger,
        Identity(always=True),
        nullable=False,
        comment="Counts up in the order in which entries became visible.",
    ),
    Column(
        "entered_at",
        DateTime(timezone=True),
        nullable=False,
        server_default=text("now()"),
        comment="When it was entered.",
    ),
    Column("entered_by_id", Text, comment="Principal who entered it; null where the deployment itself did."),
    Column("entered_by", Text, nullable=False, comment="That principal's name then."),
    Column("reason", Text, nullable=False, comment="Why."),
    Column(
        "nano_usd",
        BigInteger,
        nullable=False,
        comment="Added to what was spent, in 1e-9 dollars: below zero gives money back.",
    ),
    Column(
        "counts_at",
        DateTime(timezone=True),
        nullable=False,
        comment="Decides every period: the request's admission, else the moment that was given.",
    ),
    Column(
        "request_id", UUID(as_uuid=False), comment="The request that it corrects; null: none in particular."
    ),
    Column("principal_id", Text, nullable=False, comment="Whose spend it corrects."),
    Column("key_id", Text, comment="API key whose spend it corrects as well."),
    Column("group_id", Text, comment="Group whose spend it corrects as well."),
    Column("endpoint_id", Text, comment="Endpoint on which it was spent; null: no one in particular."),
    Column("entity_id", Text, comment="Served entity that answered, of a request."),
    CheckConstraint("nano_usd <> 0", name="corrects_something"),
    CheckConstraint("reason <> ''", name="has_a_reason"),
    Index("uq_credits_number", "number", unique=True),
    Index("ix_credits_counts_at", "counts_at"),
    Index("ix_credits_request", "request_id", postgresql_where=text("request_id IS NOT NULL")),
    Index("ix_credits_principal", "principal_id", "id"),
    comment="Credits and later charges: corrections of what was spent, entered by people, never edited.",
)

__all__ = ["credits"]
