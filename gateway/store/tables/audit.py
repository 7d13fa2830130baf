"""The audit's chain: entries that are only ever added, what they are about, and the refusals that they seal, kept apart.

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
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID

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


audit_refusals = Table(
    "audit_refusals",
    metadata,
    Column(
        "seal",
        UUID,
        nullable=False,
        comment="The chain's entry that seals it: `object_id` of a `refusals.seal`.",
    ),
    Column(
        "position",
        Integer,
        nullable=False,
        comment="Place among those that this entry seals, from 1 without a gap.",
    ),
    Column(
        "digest",
        LargeBinary,
        nullable=False,
        comment="SHA-256 of the salt followed by the content; the entry holds the digest of all of them.",
    ),
    Column(
        "salt",
        LargeBinary,
        comment="Random bytes that make the digest say nothing of the content; null: erased.",
    ),
    Column("content", Text, comment="Canonical JSON, as it was digested; null: erased."),
    # The rest is read out of the content by a trigger, whatever is written here.
    Column(
        "at",
        DateTime(timezone=True),
        comment="When; of a count, when its span began.",
    ),
    Column(
        "span_ms",
        BigInteger,
        comment="Milliseconds that `count` counts over; 0 for a single refusal.",
    ),
    Column("count", BigInteger, comment="How many calls were refused."),
    Column("plane", Text, comment="`data` or `control`."),
    Column("code", Text, comment="The rule that refused, as the caller was told."),
    Column("limit_id", Text, comment="Limit or budget that had no room."),
    Column(
        "principal_id",
        Text,
        comment="Who asked; null for a caller that nobody knows.",
    ),
    Column(
        "asked",
        Text,
        comment="Endpoint or route that was asked for; null for a count.",
    ),
    Column(
        "address",
        Text,
        comment="Where unknown callers called from: an IPv4 address or an IPv6 network of 64 bits.",
    ),
    CheckConstraint("octet_length(digest) = 32", name="digest_is_whole"),
    PrimaryKeyConstraint("seal", "position"),
    Index("ix_audit_refusals_at", "at"),
    comment="Calls that were refused before admission: the first ten a second of a principal and rule, the rest as counts.",
)

refusals_sealed = Table(
    "refusals_sealed",
    metadata,
    Column("spool_id", UUID, primary_key=True, comment="A worker's spool."),
    Column("number", BigInteger, nullable=False, comment="The last of its refusals that is sealed."),
    comment="How far each spool's refusals are sealed, so that none is sealed twice.",
)

__all__ = ["audit_contents", "audit_entries", "audit_refusals", "refusals_sealed"]
