"""Events of budgets, and the webhooks that are told of them.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SCHEMA = "gateway"
APPLICATION = "weighbridge_app"


def upgrade() -> None:
    """Make the tables; events are only added, deliveries change until they are done."""
    # One column a line.
    # fmt: off
    op.create_table(
        "budget_events",
        sa.Column("budget_id", sa.UUID(), nullable=False, comment="The budget."),
        sa.Column("subject", sa.Text(), nullable=False, comment="Whose spend it is; empty for the deployment."),
        sa.Column("period_start", sa.DateTime(timezone=True), nullable=False, comment="Start of the budget's period."),
        sa.Column("threshold_percent", sa.SmallInteger(), nullable=False, comment="The threshold that was reached."),
        sa.Column("event_id", sa.UUID(), nullable=False, comment="Name of the event, as webhooks get it."),
        sa.Column("amount_nano_usd", sa.BigInteger(), nullable=False, comment="The budget's amount then, in 1e-9 dollars."),
        sa.Column("spent_nano_usd", sa.BigInteger(), nullable=False, comment="Settled spend when it was seen."),
        sa.Column("raised_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When it was seen."),
        sa.PrimaryKeyConstraint("budget_id", "subject", "period_start", "threshold_percent", name=op.f("pk_budget_events")),
        schema=SCHEMA,
        comment="Thresholds of budgets that were reached: once for each budget, subject, period and threshold.",
    )
    _versions(
        "webhooks",
        sa.Column("name", sa.Text(), nullable=False, comment="What administrators call it."),
        sa.Column("url", sa.Text(), nullable=False, comment="Where events are sent."),
        sa.Column("events", ARRAY(sa.Text()), server_default="{budget.threshold}", nullable=False, comment="Kinds of events that it gets."),
        sa.Column("secret_sealed", sa.LargeBinary(), nullable=False, comment="The secret that signs what it gets, sealed."),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False, comment="Whether it is sent anything."),
        comment="Who is told of events.",
    )
    op.create_index("uq_webhooks_name", "webhooks", [sa.text("lower(name)")], unique=True, schema=SCHEMA, postgresql_where=sa.text("to_change IS NULL"))
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.UUID(), nullable=False, comment="The delivery."),
        sa.Column("webhook_id", sa.UUID(), nullable=False, comment="The webhook that is owed it."),
        sa.Column("event_id", sa.UUID(), nullable=False, comment="The event."),
        sa.Column("body", sa.Text(), nullable=False, comment="What is sent: JSON, with no secret in it."),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When it became due."),
        sa.Column("next_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=True, comment="When it is tried next; null: delivered or given up."),
        sa.Column("attempts", sa.SmallInteger(), server_default="0", nullable=False, comment="How often it was tried so far."),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True, comment="When the receiver took it."),
        sa.Column("problem", sa.Text(), nullable=True, comment="Why the last try failed, or why it was given up."),
        sa.CheckConstraint("delivered_at IS NULL OR next_at IS NULL", name=op.f("ck_webhook_deliveries_delivered_once")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
        schema=SCHEMA,
        comment="Events on their way to webhooks.",
    )
    op.create_index("ix_webhook_deliveries_due", "webhook_deliveries", ["next_at"], schema=SCHEMA, postgresql_where=sa.text("next_at IS NOT NULL"))
    op.create_index("ix_webhook_deliveries_webhook", "webhook_deliveries", ["webhook_id", "id"], schema=SCHEMA)
    # fmt: on
    op.execute(f"GRANT SELECT, INSERT, UPDATE (to_change, valid_to) ON {SCHEMA}.webhooks TO {APPLICATION}")
    op.execute(f"GRANT SELECT, INSERT ON {SCHEMA}.budget_events TO {APPLICATION}")
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {SCHEMA}.webhook_deliveries TO {APPLICATION}")


def downgrade() -> None:
    """Drop the tables: what was raised is still in the audit."""
    for table in ("webhook_deliveries", "webhooks", "budget_events"):
        op.drop_table(table, schema=SCHEMA)


def _versions(name: str, *items: sa.Column[object] | sa.Constraint, comment: str) -> None:
    """A table whose rows are versions of objects, closed once and never edited."""
    op.create_table(
        name,
        sa.Column(
            "id", sa.UUID(), nullable=False, comment="The object, the same in all its versions (UUIDv7)."
        ),
        sa.Column(
            "from_change",
            sa.BigInteger(),
            nullable=False,
            comment="Configuration change that made this version.",
        ),
        sa.Column(
            "to_change", sa.BigInteger(), comment="Configuration change that ended it; null while current."
        ),
        sa.Column(
            "valid_from",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When this version began to hold.",
        ),
        sa.Column(
            "valid_to", sa.DateTime(timezone=True), comment="When it ceased to hold; null while current."
        ),
        sa.Column(
            "managed_by",
            sa.Text(),
            comment="Name of the declarative file that owns the object, which is read-only elsewhere; null: nobody.",
        ),
        *items,
        sa.PrimaryKeyConstraint("id", "from_change", name=f"pk_{name}"),
        sa.ForeignKeyConstraint(
            ["from_change"],
            [f"{SCHEMA}.configuration_change.number"],
            name=f"fk_{name}_from_change",
            deferrable=True,
            initially="DEFERRED",
        ),
        sa.ForeignKeyConstraint(
            ["to_change"],
            [f"{SCHEMA}.configuration_change.number"],
            name=f"fk_{name}_to_change",
            deferrable=True,
            initially="DEFERRED",
        ),
        sa.CheckConstraint("(to_change IS NULL) = (valid_to IS NULL)", name=f"ck_{name}_ends_once"),
        sa.CheckConstraint("to_change > from_change", name=f"ck_{name}_ends_after_it_began"),
        schema=SCHEMA,
        comment=comment,
    )
    current = sa.text("to_change IS NULL")
    op.create_index(f"uq_{name}_current", name, ["id"], unique=True, schema=SCHEMA, postgresql_where=current)
    op.create_index(f"ix_{name}_versions", name, ["from_change", "to_change"], schema=SCHEMA)
    op.execute(
        f"CREATE TRIGGER closed_once BEFORE UPDATE ON {SCHEMA}.{name} FOR EACH ROW EXECUTE FUNCTION {SCHEMA}.versions_are_closed_once()"
    )
