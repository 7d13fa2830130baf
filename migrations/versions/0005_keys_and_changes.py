"""Keys for batch work, lines of keys that count together, limits that an endpoint's managers set, changes made once.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SCHEMA = "gateway"
APPLICATION = "weighbridge_app"


def upgrade() -> None:
    """Add the columns, and the table of changes that carried an idempotency key."""
    # One column a line.
    # fmt: off
    op.add_column("api_keys", sa.Column("priority", sa.Text(), server_default="interactive", nullable=False, comment="Of its calls: `interactive`, or `batch`, which gives way where limits are shared."), schema=SCHEMA)
    op.add_column("api_keys", sa.Column("counts_as", sa.UUID(), nullable=True, comment="Key whose limits and budgets it shares: the first of its line; null: itself."), schema=SCHEMA)
    op.create_check_constraint(op.f("ck_api_keys_priority_is_known"), "api_keys", "priority IN ('interactive', 'batch')", schema=SCHEMA)
    op.create_index("ix_api_keys_line", "api_keys", [sa.text("(id::text)")], schema=SCHEMA, postgresql_where=sa.text("to_change IS NULL AND counts_as IS NOT NULL"))
    op.add_column("limits", sa.Column("by_owner", sa.Boolean(), server_default=sa.text("false"), nullable=False, comment="Whether an endpoint's managers may change it: it was set on the endpoint's own route."), schema=SCHEMA)
    op.add_column("requests", sa.Column("batch", sa.Boolean(), server_default=sa.text("false"), nullable=False, comment="Whether it was batch work, which gives way where limits are shared."), schema=SCHEMA)
    op.create_table(
        "changes_made_once",
        sa.Column("principal_id", sa.UUID(), nullable=False, comment="Who made the change."),
        sa.Column("key", sa.Text(), nullable=False, comment="Idempotency-Key that came with it."),
        sa.Column("digest", sa.LargeBinary(), nullable=False, comment="Keyed digest of method, path and body."),
        sa.Column("status", sa.SmallInteger(), nullable=False, comment="Status of the answer."),
        sa.Column("etag", sa.Text(), nullable=True, comment="Version that the answer named."),
        sa.Column("body", sa.LargeBinary(), nullable=False, comment="The answer, without what is shown once only."),
        sa.Column("made_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When; after a day it is forgotten."),
        sa.PrimaryKeyConstraint("principal_id", "key", name=op.f("pk_changes_made_once")),
        schema=SCHEMA,
        comment="Changes that carried an idempotency key, with their answers, kept in the transaction of the change.",
    )
    op.create_index("ix_changes_made_once_made_at", "changes_made_once", ["made_at"], schema=SCHEMA)
    # fmt: on
    op.execute(f"GRANT SELECT, INSERT, DELETE ON {SCHEMA}.changes_made_once TO {APPLICATION}")


def downgrade() -> None:
    """Drop what was added."""
    op.drop_table("changes_made_once", schema=SCHEMA)
    op.drop_column("requests", "batch", schema=SCHEMA)
    op.drop_column("limits", "by_owner", schema=SCHEMA)
    op.drop_index("ix_api_keys_line", "api_keys", schema=SCHEMA)
    op.drop_column("api_keys", "counts_as", schema=SCHEMA)
    op.drop_column("api_keys", "priority", schema=SCHEMA)
