"""What local engines say of their own time, kept by the minute, and a view of it for auditors.

Revision ID: 0027
Revises: 0026
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.views import make_view, run

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

SCHEMA = "gateway"
APPLICATION = "weighbridge_app"


def upgrade() -> None:
    """Make the table and the view."""
    # One column a line.
    # fmt: off
    op.create_table(
        "engine_minutes",
        sa.Column("engine", sa.Text(), nullable=False, comment="The engine's address; of a local socket with the host before it."),
        sa.Column("minute", sa.DateTime(timezone=True), nullable=False, comment="Start of the minute."),
        sa.Column("watched_us", sa.BigInteger(), nullable=False, comment="Microseconds of it that the engine was looked at."),
        sa.Column("away_us", sa.BigInteger(), nullable=False, comment="Microseconds of these that it did not answer."),
        sa.Column("busy_us", sa.BigInteger(), nullable=False, comment="Microseconds of these that it worked."),
        sa.Column("present_us", sa.BigInteger(), nullable=False, comment="Microseconds that calls spent in it, added up over them: by busy_us, how many there were at once."),
        sa.Column("steps", sa.BigInteger(), nullable=False, comment="Steps that it made."),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False, comment="Prompt tokens that it computed."),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False, comment="Prompt tokens that it found in its cache."),
        sa.Column("answer_tokens", sa.BigInteger(), nullable=False, comment="Tokens that it generated."),
        sa.PrimaryKeyConstraint("minute", "engine", name=op.f("pk_engine_minutes")),
        schema=SCHEMA,
        comment="What local engines said of their own time, a minute a row.",
    )
    run(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {SCHEMA}.engine_minutes TO {APPLICATION}")
    make_view(
        "serving.engine_minutes",
        "How long the local engines worked and on how much, by their own metrics, a minute a row. Filter by minute: it is indexed.",
        (
            ("minute", "m.minute", "Start of the minute."),
            ("engine", "m.engine", "The engine's address; of a local socket with the host before it."),
            ("watched_seconds", "m.watched_us * 0.000001", "How much of it the engine was looked at."),
            ("away_seconds", "m.away_us * 0.000001", "Of these, how long it did not answer."),
            ("busy_seconds", "m.busy_us * 0.000001", "Of these, how long it worked."),
            ("calls_at_once", "round(m.present_us::numeric / nullif(m.busy_us, 0), 2)", "Calls in it while it worked, on average; null where it did not."),
            ("steps", "m.steps", "Steps that it made."),
            ("tokens_a_step", "round((m.prompt_tokens + m.answer_tokens)::numeric / nullif(m.steps, 0), 2)", "Tokens that a step went through, on average; null where there was none."),
            ("prompt_tokens", "m.prompt_tokens", "Prompt tokens that it computed."),
            ("cached_tokens", "m.cached_tokens", "Prompt tokens that it found in its cache."),
            ("answer_tokens", "m.answer_tokens", "Tokens that it generated."),
            ("present_seconds", "m.present_us * 0.000001", "Time that calls spent in it, added up over them."),
        ),
        "FROM gateway.engine_minutes m",
    )
    # fmt: on


def downgrade() -> None:
    """Drop them; what engine time cost is by the ledger alone again."""
    run("DROP VIEW serving.engine_minutes")
    op.drop_table("engine_minutes", schema=SCHEMA)
