"""What each admission was decided from, so that it can be decided again.

Revision ID: 0022
Revises: 0021
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

SCHEMA = "gateway"


def upgrade() -> None:
    """Add the column."""
    # One column a line.
    # fmt: off
    op.add_column("requests", sa.Column("weighed", postgresql.JSONB(astext_type=sa.Text()), nullable=True, comment="What the decision was made from, so that it can be made again: output asked and granted at first, what each counter showed, group asked for; null: before that was kept."), schema=SCHEMA)
    # fmt: on


def downgrade() -> None:
    """Drop it."""
    op.drop_column("requests", "weighed", schema=SCHEMA)
