"""Refusals in the audit: single ones and counts, sealed into the chain once a second.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SCHEMA = "gateway"
APPLICATION = "weighbridge_app"


def upgrade() -> None:
    """Make the tables; the application adds refusals, and never edits or takes away."""
    # One column a line.
    # fmt: off
    op.create_table(
        "audit_refusals",
        sa.Column("seal", sa.UUID(), nullable=False, comment="The chain's entry that seals it: `object_id` of a `refusals.seal`."),
        sa.Column("position", sa.Integer(), nullable=False, comment="Place among those that this entry seals, from 1 without a gap."),
        sa.Column("digest", sa.LargeBinary(), nullable=False, comment="SHA-256 of the salt followed by the content; the entry holds the digest of all of them."),
        sa.Column("salt", sa.LargeBinary(), nullable=True, comment="Random bytes that make the digest say nothing of the content; null: erased."),
        sa.Column("content", sa.Text(), nullable=True, comment="Canonical JSON, as it was digested; null: erased."),
        _read("at", sa.DateTime(timezone=True), "to_timestamp(((content)::jsonb ->> 'at_ms')::bigint / 1000.0::double precision)", "When; of a count, when its span began."),
        _read("span_ms", sa.BigInteger(), "((content)::jsonb ->> 'span_ms')::bigint", "Milliseconds that `count` counts over; 0 for a single refusal."),
        _read("count", sa.BigInteger(), "((content)::jsonb ->> 'count')::bigint", "How many calls were refused."),
        _read("plane", sa.Text(), "(content)::jsonb ->> 'plane'", "`data` or `control`."),
        _read("code", sa.Text(), "(content)::jsonb ->> 'code'", "The rule that refused, as the caller was told."),
        _read("limit_id", sa.Text(), "(content)::jsonb ->> 'limit_id'", "Limit or budget that had no room."),
        _read("principal_id", sa.Text(), "(content)::jsonb ->> 'principal_id'", "Who asked; null for a caller that nobody knows."),
        _read("asked", sa.Text(), "(content)::jsonb ->> 'asked'", "Endpoint or route that was asked for; null for a count."),
        _read("address", sa.Text(), "(content)::jsonb ->> 'address'", "Where unknown callers called from: an IPv4 address or an IPv6 network of 64 bits."),
        sa.CheckConstraint("octet_length(digest) = 32", name=op.f("ck_audit_refusals_digest_is_whole")),
        sa.PrimaryKeyConstraint("seal", "position", name=op.f("pk_audit_refusals")),
        schema=SCHEMA,
        comment="Calls that were refused before admission: the first ten a second of a principal and rule, the rest as counts.",
    )
    op.create_index("ix_audit_refusals_at", "audit_refusals", ["at"], schema=SCHEMA)
    op.create_table(
        "refusals_sealed",
        sa.Column("spool_id", sa.UUID(), nullable=False, comment="A worker's spool."),
        sa.Column("number", sa.BigInteger(), nullable=False, comment="The last of its refusals that is sealed."),
        sa.PrimaryKeyConstraint("spool_id", name=op.f("pk_refusals_sealed")),
        schema=SCHEMA,
        comment="How far each spool's refusals are sealed, so that none is sealed twice.",
    )
    # fmt: on
    op.execute(f"GRANT SELECT, INSERT ON {SCHEMA}.audit_refusals TO {APPLICATION}")
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {SCHEMA}.refusals_sealed TO {APPLICATION}")


def downgrade() -> None:
    """Drop them; the chain keeps the entries that sealed what is gone."""
    op.drop_table("refusals_sealed", schema=SCHEMA)
    op.drop_table("audit_refusals", schema=SCHEMA)


def _read(name: str, kind: sa.types.TypeEngine[Any], text: str, comment: str) -> sa.Column[object]:
    """A column that is read out of the content and cannot be edited apart from it."""
    return sa.Column(name, kind, sa.Computed(text, persisted=True), nullable=True, comment=comment)
