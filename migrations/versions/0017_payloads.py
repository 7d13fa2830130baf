"""What was asked and answered, by day, for a role that reads nothing else.

Revision ID: 0017
Revises: 0016
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.views import quoted, run

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

SCHEMA = "gateway"
APPLICATION = "weighbridge_app"
READER = "weighbridge_payloads"
VIEW = "payloads.calls"
COLUMNS = (
    ("request_date", "(request_time AT TIME ZONE 'UTC')::date", "Day of its arrival, UTC."),
    ("databricks_request_id", "request_id", "The gateway's own id, as in `x-request-id`, in the ledger and in the audit."),
    ("client_request_id", "client_request_id", "The caller's own id of the request."),
    ("request_time", "request_time", "When it arrived. Filter by it, or by the id: days are tables of their own."),
    ("status_code", "status_code", "Status sent to the client; 0 if it left before there was one."),
    ("sampling_fraction", "sampling_fraction", "How many of the endpoint's calls were kept then, from 0 to 1."),
    ("execution_duration_ms", "duration_ms", "Milliseconds from its arrival to its end."),
    ("request", "request", "The body as the client sent it; without headers, redacted, cut at the endpoint's size."),
    ("response", "response", "The answer, a stream's put together as one; the same."),
    ("served_entity_id", "entity_id", "Served entity that answered; null if none was asked."),
    ("logging_error_codes", "logging_error_codes", "MAX_REQUEST_SIZE_EXCEEDED, MAX_RESPONSE_SIZE_EXCEEDED: it was cut; REDACTION_FAILED: it was left out."),
    ("requester", "principal_name", "Who asked."),
    ("requester_id", "principal_id", "The same by id."),
    ("endpoint_id", "endpoint_id", "Endpoint asked for."),
    ("endpoint_name", "endpoint_name", "Its name then."),
    ("served_entity_name", "entity_name", "The served entity's name then."),
    ("api", "api", "Way in: `openai.chat`, `databricks.chat`, ..."),
    ("request_bytes", "request_bytes", "Bytes of the body before it was cut."),
    ("response_bytes", "response_bytes", "Bytes of the answer, as far as it was heard."),
)  # fmt: skip


def upgrade() -> None:
    """Make the table, the functions that make and drop its days, and the view; the role is made beside the others."""
    # One column a line.
    # fmt: off
    op.create_table(
        "payloads",
        sa.Column("request_id", sa.UUID(), nullable=False, comment="The request, as in the ledger."),
        sa.Column("request_time", sa.DateTime(timezone=True), nullable=False, comment="When it arrived."),
        sa.Column("endpoint_id", sa.Text(), nullable=False, comment="Endpoint asked for."),
        sa.Column("endpoint_name", sa.Text(), nullable=False, comment="That endpoint's name then."),
        sa.Column("principal_id", sa.Text(), nullable=False, comment="Who asked."),
        sa.Column("principal_name", sa.Text(), nullable=False, comment="That principal's name then."),
        sa.Column("api", sa.Text(), nullable=False, comment="Way in: `openai.chat`, `databricks.chat`, ..."),
        sa.Column("client_request_id", sa.Text(), nullable=True, comment="The caller's own id of the request."),
        sa.Column("entity_id", sa.Text(), nullable=True, comment="Served entity that answered; null if none was asked."),
        sa.Column("entity_name", sa.Text(), nullable=True, comment="That served entity's name then."),
        sa.Column("status_code", sa.SmallInteger(), nullable=False, comment="Status sent to the client; 0 if it left before."),
        sa.Column("duration_ms", sa.BigInteger(), nullable=False, comment="Milliseconds from its arrival to its end."),
        sa.Column("sampling_fraction", sa.Double(), nullable=False, comment="How many of the endpoint's calls were kept then, from 0 to 1."),
        sa.Column("request", sa.Text(), nullable=False, comment="The body as the client sent it, redacted and cut."),
        sa.Column("response", sa.Text(), nullable=False, comment="The answer, a stream's as one; redacted and cut."),
        sa.Column("request_bytes", sa.Integer(), nullable=False, comment="Bytes of the body before it was cut."),
        sa.Column("response_bytes", sa.Integer(), nullable=False, comment="Bytes of the answer, as far as it was heard."),
        sa.Column("logging_error_codes", postgresql.ARRAY(sa.Text()), nullable=False, comment="MAX_REQUEST_SIZE_EXCEEDED, MAX_RESPONSE_SIZE_EXCEEDED: it was cut; REDACTION_FAILED: it was left out."),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_payloads")),
        schema=SCHEMA,
        comment="What was asked and answered, of endpoints whose managers have it kept.",
        postgresql_partition_by="RANGE (request_id)",
    )
    # fmt: on
    run(MAKE_DAY)
    run(DROP_DAYS)
    for function in ("make_payload_day(date)", "drop_payload_days(date)"):
        run(f"REVOKE ALL ON FUNCTION {SCHEMA}.{function} FROM PUBLIC")
        run(f"GRANT EXECUTE ON FUNCTION {SCHEMA}.{function} TO {APPLICATION}")
    run(f"GRANT INSERT ON {SCHEMA}.payloads TO {APPLICATION}")
    run("CREATE SCHEMA payloads")
    run("COMMENT ON SCHEMA payloads IS 'What was asked and answered, where that is kept.'")
    chosen = ",\n    ".join(f"{sql} AS {name}" for name, sql, _ in COLUMNS)
    run(f"CREATE VIEW {VIEW} WITH (security_barrier) AS SELECT\n    {chosen}\nFROM {SCHEMA}.payloads")
    run(
        f"COMMENT ON VIEW {VIEW} IS 'Calls with what was asked and answered, under the names of inference tables.'"
    )
    for name, _, holds in COLUMNS:
        run(f"COMMENT ON COLUMN {VIEW}.{name} IS {quoted(holds)}")
    run(f"GRANT USAGE ON SCHEMA payloads TO {READER}")
    run(f"GRANT SELECT ON {VIEW} TO {READER}")
    run(_for_database(f"GRANT CONNECT ON DATABASE %I TO {READER}"))


def downgrade() -> None:
    """Drop them, rows and all; the role is the server's, not this database's."""
    run(_for_database(f"REVOKE CONNECT ON DATABASE %I FROM {READER}"))
    run(f"DROP VIEW {VIEW}")
    run("DROP SCHEMA payloads")
    run(f"DROP FUNCTION {SCHEMA}.drop_payload_days(date)")
    run(f"DROP FUNCTION {SCHEMA}.make_payload_day(date)")
    op.drop_table("payloads", schema=SCHEMA)


def _for_database(statement: str) -> str:
    # Somebody else's database may be open to everyone already, and not the owner's to open.
    return f"""DO $$ BEGIN
        IF has_database_privilege(current_database(), 'CONNECT WITH GRANT OPTION') THEN
            EXECUTE format('{statement}', current_database());
        END IF;
    END $$"""


MAKE_DAY = """
CREATE FUNCTION gateway.make_payload_day(day date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name text := 'payloads_' || to_char(day, 'YYYYMMDD');
BEGIN
    IF to_regclass('gateway.' || name) IS NOT NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(1463943185);
    EXECUTE format(
        'CREATE TABLE IF NOT EXISTS gateway.%I PARTITION OF gateway.payloads FOR VALUES FROM (%L) TO (%L)',
        name,
        gateway.uuid7_floor(day::timestamp AT TIME ZONE 'UTC'),
        gateway.uuid7_floor((day + 1)::timestamp AT TIME ZONE 'UTC')
    );
END $$
"""
DROP_DAYS = """
CREATE FUNCTION gateway.drop_payload_days(before date) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name text;
    dropped int := 0;
BEGIN
    FOR name IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'gateway.payloads'::regclass AND c.relname < 'payloads_' || to_char(before, 'YYYYMMDD')
        ORDER BY 1
    LOOP
        EXECUTE format('DROP TABLE gateway.%I', name);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$
"""
