"""The audit's chain: entries that are only ever added, and what they are about, kept apart.

What was hashed is stored as the text that was hashed; the columns are computed from it, so they cannot be edited
apart from it. Contents, which may be personal, enter the chain as a salted digest: they can be erased for good
and the chain still holds.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB

from gateway.store.tables.base import metadata

audit_entries = Table(
    "audit_entries",
    metadata,
    Column(
        "number",
        BigInteger,
        primary_key=True,
        autoincrement=False,
        comment="Place in the chain, from 1 without a gap.",
    ),
    Column("body", Text, nullable=False, comment="The text that was hashed: canonical JSON."),
    Column(
        "digest",
        LargeBinary,
        nullable=False,
        comment="HMAC-SHA-256 of the previous digest followed by the body.",
    ),
    Column(
        "at",
        DateTime(timezone=True),
        Computed(
            "to_timestamp(((body)::jsonb ->> 'at_us')::bigint / 1000000.0::double precision)", persisted=True
        ),
        comment="When, by the database's clock.",
    ),
    Column("actor", Text, Computed("(body)::jsonb ->> 'actor'", persisted=True), comment="Who did it."),
    Column(
        "action",
        Text,
        Computed("(body)::jsonb ->> 'action'", persisted=True),
        comment="What was done: `<object>.<verb>`.",
    ),
    Column(
        "object_kind",
        Text,
        Computed("(body)::jsonb ->> 'object_kind'", persisted=True),
        comment="Kind of the object.",
    ),
    Column(
        "object_id", Text, Computed("(body)::jsonb ->> 'object_id'", persisted=True), comment="The object."
    ),
    CheckConstraint("octet_length(digest) = 32", name="digest_is_whole"),
    Index("ix_audit_entries_at", "at"),
    Index("ix_audit_entries_object", "object_kind", "object_id"),
    comment="Administrative changes and logins, chained: an edit is found by `weighbridge verify --audit`.",
)

audit_contents = Table(
    "audit_contents",
    metadata,
    Column(
        "number",
        BigInteger,
        ForeignKey(audit_entries.c.number),
        primary_key=True,
        autoincrement=False,
        comment="The entry.",
    ),
    Column(
        "salt",
        LargeBinary,
        nullable=False,
        comment="Random bytes that make the digest say nothing of the contents.",
    ),
    Column(
        "content",
        Text,
        nullable=False,
        comment="Canonical JSON: before, after, reason. Its digest is in the entry.",
    ),
    Column(
        "before",
        JSONB,
        Computed("(content)::jsonb -> 'before'", persisted=True),
        comment="The object before; null for none.",
    ),
    Column(
        "after",
        JSONB,
        Computed("(content)::jsonb -> 'after'", persisted=True),
        comment="The object after; null for none.",
    ),
    Column(
        "reason",
        Text,
        Computed("(content)::jsonb ->> 'reason'", persisted=True),
        comment="Why, where it was said.",
    ),
    comment="What the entries are about; a row may be erased and the chain still holds.",
)

__all__ = ["audit_contents", "audit_entries"]
