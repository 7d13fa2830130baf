"""Room in the pages of sums and balances for the versions that postings leave behind.

A sum is changed by batch after batch. Where its new version finds room in the same page no index is touched: in a page
filled to the brim one change in two of an hour's sums wrote its key of eight columns anew.

Revision ID: 0024
Revises: 0023
"""

from __future__ import annotations

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

FILLED = {"usage_hour": 80, "usage_day": 80, "balances": 80}
"""Percent."""


def upgrade() -> None:
    """Leave a fifth of each page that is filled from here on."""
    for table, percent in FILLED.items():
        op.execute(f"ALTER TABLE gateway.{table} SET (fillfactor = {percent})")


def downgrade() -> None:
    """Fill pages whole again."""
    for table in FILLED:
        op.execute(f"ALTER TABLE gateway.{table} RESET (fillfactor)")
