"""How far each spool was read, and to which of its settlements: what rebuilt counters hold of a worker's.

Revision ID: 0023
Revises: 0022
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

SCHEMA = "gateway"


def upgrade() -> None:
    """Add the columns."""
    # One column a line.
    # fmt: off
    op.add_column("spool_positions", sa.Column("read_until", sa.DateTime(timezone=True), nullable=True, comment="All that was appended to it before, by the host's clock, is in the ledger."), schema=SCHEMA)
    op.add_column("spool_positions", sa.Column("ended_number", sa.BigInteger(), server_default=sa.text("0"), nullable=False, comment="Its settlements up to this number are in the ledger, and none beyond it."), schema=SCHEMA)
    # fmt: on


def downgrade() -> None:
    """Drop them."""
    op.drop_column("spool_positions", "ended_number", schema=SCHEMA)
    op.drop_column("spool_positions", "read_until", schema=SCHEMA)
