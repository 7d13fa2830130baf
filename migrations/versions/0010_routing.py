"""Versions of what answers for an endpoint, and groups whose requests stay here.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

SCHEMA = "gateway"


def upgrade() -> None:
    """Add the columns."""
    # One column a line.
    # fmt: off
    op.add_column("endpoints", sa.Column("config_version", sa.Integer(), server_default="1", nullable=False, comment="Counts up with each change of what answers for it."), schema=SCHEMA)
    op.add_column("groups", sa.Column("local_only", sa.Boolean(), server_default=sa.text("false"), nullable=False, comment="Requests of its members never leave for another host."), schema=SCHEMA)
    # fmt: on


def downgrade() -> None:
    """Drop what was added."""
    op.drop_column("groups", "local_only", schema=SCHEMA)
    op.drop_column("endpoints", "config_version", schema=SCHEMA)
