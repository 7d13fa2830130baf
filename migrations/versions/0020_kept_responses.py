"""Responses that endpoints keep for the calls that follow them.

Revision ID: 0020
Revises: 0019
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

SCHEMA = "gateway"
APPLICATION = "weighbridge_app"


def upgrade() -> None:
    """Make the table; rows are written once and deleted, never changed."""
    # One column a line.
    # fmt: off
    op.create_table(
        "kept_responses",
        sa.Column("id", sa.UUID(), nullable=False, comment="The response, which is the request that it answers (UUIDv7)."),
        sa.Column("previous_id", sa.UUID(), nullable=True, comment="The response that it follows; null: it began."),
        sa.Column("principal_id", sa.UUID(), nullable=False, comment="Whose it is; nobody else finds it."),
        sa.Column("endpoint_id", sa.UUID(), nullable=False, comment="Whose rules say how long it is kept."),
        sa.Column("kept_at", sa.DateTime(timezone=True), nullable=False, comment="When it was answered."),
        sa.Column("content_sealed", sa.LargeBinary(), nullable=False, comment="What was asked and answered, packed and sealed for this response of this principal."),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_kept_responses")),
        schema=SCHEMA,
        comment="Kept responses, for `previous_response_id`.",
    )
    # fmt: on
    op.create_index(
        "ix_kept_responses_endpoint_id", "kept_responses", ["endpoint_id", "kept_at"], schema=SCHEMA
    )
    op.create_index("ix_kept_responses_principal_id", "kept_responses", ["principal_id"], schema=SCHEMA)
    op.execute(f"GRANT SELECT, INSERT, DELETE ON {SCHEMA}.kept_responses TO {APPLICATION}")


def downgrade() -> None:
    """Drop the table, and what it keeps."""
    op.drop_table("kept_responses", schema=SCHEMA)
