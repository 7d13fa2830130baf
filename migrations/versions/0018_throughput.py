"""Provisioned throughput: the pool, what is booked of it, which calls it covered, and how soon these were answered.

Revision ID: 0018
Revises: 0017
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.views import make_view, run

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

SCHEMA = "gateway"
APPLICATION = "weighbridge_app"


def upgrade() -> None:
    """Make the tables, the ledger's columns and the view."""
    # One column a line.
    # fmt: off
    _versions(
        "throughput_pools",
        sa.Column("name", sa.Text(), nullable=False, comment="What people call it."),
        sa.Column("replicas", sa.Integer(), nullable=False, comment="Replicas of the engine that may be booked."),
        sa.Column("tokens_per_second", sa.BigInteger(), nullable=False, comment="What one replica does with all of its slots in use, prompts and answers together."),
        sa.Column("slots", sa.Integer(), nullable=False, comment="Calls that one replica answers at once at that rate."),
        sa.Column("unit_tokens_per_second", sa.BigInteger(), server_default=sa.text("1"), nullable=False, comment="Tokens a second in one unit."),
        sa.Column("queue", sa.Integer(), server_default=sa.text("256"), nullable=False, comment="Calls that may wait for a slot, over all workers."),
        sa.Column("queue_ms", sa.Integer(), server_default=sa.text("10000"), nullable=False, comment="How long one may wait."),
        sa.CheckConstraint("replicas BETWEEN 1 AND 10000", name=op.f("ck_throughput_pools_replicas_are_some")),
        sa.CheckConstraint("tokens_per_second BETWEEN 1 AND 1000000000", name=op.f("ck_throughput_pools_rate_is_some")),
        sa.CheckConstraint("slots BETWEEN 1 AND 10000", name=op.f("ck_throughput_pools_slots_are_some")),
        sa.CheckConstraint("unit_tokens_per_second BETWEEN 1 AND 1000000000", name=op.f("ck_throughput_pools_unit_is_some")),
        sa.CheckConstraint("queue BETWEEN 0 AND 1000000", name=op.f("ck_throughput_pools_queue_is_bounded")),
        sa.CheckConstraint("queue_ms BETWEEN 0 AND 600000", name=op.f("ck_throughput_pools_wait_is_bounded")),
        comment="What the local engine can do.",
    )
    _unique("throughput_pools", "throughput_pools_only", "(true)")
    _versions(
        "throughput_provisions",
        sa.Column("name", sa.Text(), nullable=False, comment="What people call it."),
        sa.Column("scope", sa.Text(), nullable=False, comment="Whose calls it covers: an `endpoint`'s or a `group`'s."),
        sa.Column("subject_id", sa.UUID(), nullable=False, comment="That endpoint or group."),
        sa.Column("units", sa.BigInteger(), nullable=False, comment="How much is kept for it, in the pool's units."),
        sa.Column("first_token_ms", sa.Integer(), nullable=True, comment="What 95 % of the first tokens of covered streams should come within; null: as they come."),
        sa.CheckConstraint("scope IN ('endpoint', 'group')", name=op.f("ck_throughput_provisions_scope_is_known")),
        sa.CheckConstraint("units BETWEEN 1 AND 1000000000", name=op.f("ck_throughput_provisions_units_are_some")),
        sa.CheckConstraint("first_token_ms BETWEEN 1 AND 600000", name=op.f("ck_throughput_provisions_target_is_some")),
        comment="Throughput that is kept for an endpoint or a group.",
    )
    _unique("throughput_provisions", "throughput_provisions_name", "lower(name)")
    _unique("throughput_provisions", "throughput_provisions_subject", "subject_id")
    op.add_column("attempts", sa.Column("provision_id", sa.Text(), nullable=True, comment="Provisioned throughput that covered it, or would have were it not used up."), schema=SCHEMA)
    op.add_column("attempts", sa.Column("lane", sa.Text(), nullable=True, comment="`covered` by it, `awaited` until it covered, or `lent`; null where no throughput is provisioned."), schema=SCHEMA)
    make_view(
        "serving.provisioned_throughput",
        "What each provision of throughput carried, and how soon its streams began, by hour.",
        (
            ("period", "u.period", "Start of the hour, UTC."),
            ("provision_id", "u.provision_id", "The provision."),
            ("provision_name", "u.name", "Its name then."),
            ("units", "u.units", "What was kept for it then, in units."),
            ("first_token_target_ms", "u.target", "What 95 % of the first tokens of covered streams should have come within; null: no target."),
            ("covered_requests", "u.covered", "Requests that it covered when they came."),
            ("awaited_requests", "u.awaited", "Requests that came faster than it allows and waited until it covered them."),
            ("lent_requests", "u.lent", "Requests of its holders beyond it, on slots that nobody needed."),
            ("covered_tokens", "u.covered_tokens", "Tokens of requests that it covered, at once or after a wait."),
            ("lent_tokens", "u.lent_tokens", "Tokens of requests beyond it."),
            ("timed_requests", "u.timed", "Covered streams whose first token came: what the times are of."),
            ("first_token_p50_ms", "u.p50 / 1000", "Milliseconds from arrival to the first token within which half of them came."),
            ("first_token_p95_ms", "u.p95 / 1000", "The same of 95 %."),
            ("within_target", "u.within", "How many of them came within the target; null: no target."),
            ("target_kept", "u.within >= 0.95 * u.timed", "Whether that is 95 %; null: no target."),
        ),
        """FROM (
            SELECT date_trunc('hour', a.admitted_at, 'UTC') AS period, a.provision_id, p.name, p.units, p.first_token_ms AS target,
                count(*) FILTER (WHERE a.lane = 'covered') AS covered,
                count(*) FILTER (WHERE a.lane = 'awaited') AS awaited,
                count(*) FILTER (WHERE a.lane = 'lent') AS lent,
                coalesce(sum(a.prompt_tokens + a.completion_tokens) FILTER (WHERE a.lane <> 'lent'), 0) AS covered_tokens,
                coalesce(sum(a.prompt_tokens + a.completion_tokens) FILTER (WHERE a.lane = 'lent'), 0) AS lent_tokens,
                count(*) FILTER (WHERE a.lane = 'covered' AND r.stream AND r.first_byte_us IS NOT NULL) AS timed,
                percentile_cont(0.5) WITHIN GROUP (ORDER BY r.first_byte_us) FILTER (WHERE a.lane = 'covered' AND r.stream) AS p50,
                percentile_cont(0.95) WITHIN GROUP (ORDER BY r.first_byte_us) FILTER (WHERE a.lane = 'covered' AND r.stream) AS p95,
                CASE WHEN p.first_token_ms IS NOT NULL THEN
                    count(*) FILTER (WHERE a.lane = 'covered' AND r.stream AND r.first_byte_us <= p.first_token_ms * 1000)
                END AS within
            FROM gateway.attempts a JOIN gateway.requests r ON r.request_id = a.request_id
            LEFT JOIN gateway.throughput_provisions p ON p.id = a.provision_id::uuid AND p.valid_from <= a.admitted_at
                AND (p.valid_to IS NULL OR p.valid_to > a.admitted_at)
            WHERE a.provision_id IS NOT NULL AND a.outcome IN ('ok', 'cut')
            GROUP BY 1, 2, 3, 4, 5
        ) u""",
    )
    # fmt: on
    for table in ("throughput_pools", "throughput_provisions"):
        op.execute(f"GRANT SELECT, INSERT, UPDATE (to_change, valid_to) ON {SCHEMA}.{table} TO {APPLICATION}")


def downgrade() -> None:
    """Drop all of it; which calls were covered is forgotten."""
    run("DROP VIEW serving.provisioned_throughput")
    for column in ("lane", "provision_id"):
        op.drop_column("attempts", column, schema=SCHEMA)
    for table in ("throughput_provisions", "throughput_pools"):
        op.drop_table(table, schema=SCHEMA)


def _unique(table: str, name: str, expression: str) -> None:
    op.create_index(
        f"uq_{name}",
        table,
        [sa.text(expression)],
        unique=True,
        schema=SCHEMA,
        postgresql_where=sa.text("to_change IS NULL"),
    )


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
