"""How far each webhook has been told of settled requests.

Revision ID: 0014
Revises: 0013
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

SCHEMA = "gateway"
APPLICATION = "weighbridge_app"


def upgrade() -> None:
    """Make the table; a webhook's place moves in the transaction that queues what it is told."""
    # One column a line.
    # fmt: off
    op.create_table(
        "usage_feeds",
        sa.Column("webhook_id", sa.UUID(), nullable=False, comment="The webhook."),
        sa.Column("recorded_until", sa.DateTime(timezone=True), nullable=False, comment="It was told of, or dropped, what entered the ledger before."),
        sa.Column("request_id", sa.UUID(), nullable=False, comment="And, of what entered at that very moment, requests up to this one."),
        sa.Column("told", sa.BigInteger(), server_default="0", nullable=False, comment="Requests that were queued for it."),
        sa.Column("dropped", sa.BigInteger(), server_default="0", nullable=False, comment="Requests that it is never told of, since its queue was full for too long."),
        sa.PrimaryKeyConstraint("webhook_id", name=op.f("pk_usage_feeds")),
        schema=SCHEMA,
        comment="How far each webhook has been told of settled requests.",
    )
    # fmt: on
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {SCHEMA}.usage_feeds TO {APPLICATION}")


def downgrade() -> None:
    """Drop it; a webhook that is told again begins with what comes then."""
    op.drop_table("usage_feeds", schema=SCHEMA)
