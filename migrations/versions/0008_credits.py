"""Credits: corrections of what was spent, beside the ledger's rows.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

SCHEMA = "gateway"
APPLICATION = "weighbridge_app"


def upgrade() -> None:
    """Make the table; entries are only added."""
    # One column a line.
    # fmt: off
    op.create_table(
        "credits",
        sa.Column("id", sa.UUID(), nullable=False, comment="The entry (UUIDv7)."),
        sa.Column("number", sa.BigInteger(), sa.Identity(always=True), nullable=False, comment="Counts up in the order in which entries became visible."),
        sa.Column("entered_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When it was entered."),
        sa.Column("entered_by_id", sa.Text(), nullable=True, comment="Principal who entered it; null where the deployment itself did."),
        sa.Column("entered_by", sa.Text(), nullable=False, comment="That principal's name then."),
        sa.Column("reason", sa.Text(), nullable=False, comment="Why."),
        sa.Column("nano_usd", sa.BigInteger(), nullable=False, comment="Added to what was spent, in 1e-9 dollars: below zero gives money back."),
        sa.Column("counts_at", sa.DateTime(timezone=True), nullable=False, comment="Decides every period: the request's admission, else the moment that was given."),
        sa.Column("request_id", sa.UUID(), nullable=True, comment="The request that it corrects; null: none in particular."),
        sa.Column("principal_id", sa.Text(), nullable=False, comment="Whose spend it corrects."),
        sa.Column("key_id", sa.Text(), nullable=True, comment="API key whose spend it corrects as well."),
        sa.Column("group_id", sa.Text(), nullable=True, comment="Group whose spend it corrects as well."),
        sa.Column("endpoint_id", sa.Text(), nullable=True, comment="Endpoint on which it was spent; null: no one in particular."),
        sa.Column("entity_id", sa.Text(), nullable=True, comment="Served entity that answered, of a request."),
        sa.CheckConstraint("nano_usd <> 0", name=op.f("ck_credits_corrects_something")),
        sa.CheckConstraint("reason <> ''", name=op.f("ck_credits_has_a_reason")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credits")),
        schema=SCHEMA,
        comment="Credits and later charges: corrections of what was spent, entered by people, never edited.",
    )
    op.create_index("uq_credits_number", "credits", ["number"], unique=True, schema=SCHEMA)
    op.create_index("ix_credits_counts_at", "credits", ["counts_at"], schema=SCHEMA)
    op.create_index("ix_credits_request", "credits", ["request_id"], schema=SCHEMA, postgresql_where=sa.text("request_id IS NOT NULL"))
    op.create_index("ix_credits_principal", "credits", ["principal_id", "id"], schema=SCHEMA)
    # fmt: on
    op.execute(f"GRANT SELECT, INSERT ON {SCHEMA}.credits TO {APPLICATION}")


def downgrade() -> None:
    """Drop the table: what was entered is still in the audit."""
    op.drop_table("credits", schema=SCHEMA)
