"""The books: requests, attempts, their sums, the spools' positions, and the audit's chain.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SCHEMA = "gateway"
APPLICATION = "weighbridge_app"


def upgrade() -> None:
    """Make the tables and the functions that make partitions; the application may add, never edit or take away."""
    op.create_table(
        "requests",
        sa.Column(
            "request_id",
            sa.UUID(),
            nullable=False,
            comment="The gateway's own id (UUIDv7), as in `x-request-id`.",
        ),
        sa.Column(
            "admitted_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="Redis time of the admission; decides every period.",
        ),
        sa.Column(
            "ended_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="When it ended, by the worker's clock.",
        ),
        sa.Column(
            "recorded_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When this row was posted.",
        ),
        sa.Column(
            "sequence",
            sa.BigInteger(),
            nullable=False,
            comment="Number of the admission, ascending; 0 if Redis was away.",
        ),
        sa.Column(
            "snapshot_version",
            sa.BigInteger(),
            nullable=False,
            comment="Configuration change whose rules decided.",
        ),
        sa.Column(
            "worker_id",
            sa.UUID(),
            nullable=False,
            comment="Incarnation of the worker, which names its spool.",
        ),
        sa.Column("principal_id", sa.Text(), nullable=False, comment="Who asked."),
        sa.Column("principal_kind", sa.Text(), nullable=False, comment="`user` or `service_principal`."),
        sa.Column("principal_name", sa.Text(), nullable=False, comment="That principal's name then."),
        sa.Column(
            "key_id",
            sa.Text(),
            nullable=True,
            comment="API key it came with; null for a token of an identity provider.",
        ),
        sa.Column(
            "group_id",
            sa.Text(),
            nullable=True,
            comment="Group whose limit was charged; null where none was.",
        ),
        sa.Column("endpoint_id", sa.Text(), nullable=False, comment="Endpoint asked for."),
        sa.Column("endpoint_name", sa.Text(), nullable=False, comment="That endpoint's name then."),
        sa.Column(
            "entity_id",
            sa.Text(),
            nullable=True,
            comment="Served entity of the last attempt; null if none was made.",
        ),
        sa.Column("entity_name", sa.Text(), nullable=True, comment="That served entity's name then."),
        sa.Column("model", sa.Text(), nullable=True, comment="Model that answered last."),
        sa.Column("api", sa.Text(), nullable=False, comment="Way in: `openai.chat`, `databricks.chat`, ..."),
        sa.Column("stream", sa.Boolean(), nullable=False, comment="Whether the client asked for a stream."),
        sa.Column(
            "status",
            sa.Text(),
            nullable=False,
            comment="`ok`, `cut`, `error` or `interrupted` (its worker died).",
        ),
        sa.Column(
            "http_status",
            sa.SmallInteger(),
            nullable=True,
            comment="Status sent to the client; null if its worker died.",
        ),
        sa.Column("error_code", sa.Text(), nullable=True, comment="Code of the error the client was given."),
        sa.Column(
            "finish_reason", sa.Text(), nullable=True, comment="Why the answer ended, as the client was told."
        ),
        sa.Column(
            "stopped_by",
            sa.Text(),
            nullable=True,
            comment="`client`, `limit`, `upstream` or `shutdown`; null for an ordinary end.",
        ),
        *_usage(),
        sa.Column(
            "usage_source", sa.Text(), nullable=False, comment="`reported`, `counted`, `estimated` or `none`."
        ),
        sa.Column(
            "price_id",
            sa.Text(),
            nullable=True,
            comment="Version of the price of the last attempt; null if none was made.",
        ),
        sa.Column(
            "cost_nano_usd",
            sa.BigInteger(),
            nullable=False,
            comment="What the caller bears, in 1e-9 dollars: the sum of its attempts'.",
        ),
        sa.Column(
            "estimated_prompt_tokens", sa.BigInteger(), nullable=False, comment="Input tokens reserved."
        ),
        sa.Column(
            "granted_output_tokens",
            sa.BigInteger(),
            nullable=False,
            comment="Output tokens reserved, top-ups included.",
        ),
        sa.Column(
            "charges",
            JSONB(),
            server_default=sa.text("'[]'"),
            nullable=False,
            comment="Limits and budgets charged: limit, subject, metric, reserved and actual amounts.",
        ),
        sa.Column("tags", JSONB(), nullable=True, comment="Keys and values the caller sent for charge-back."),
        sa.Column(
            "client_request_id", sa.Text(), nullable=True, comment="The caller's own id of the request."
        ),
        sa.Column("end_user", sa.Text(), nullable=True, comment="The caller's own user, where it sent one."),
        sa.Column(
            "first_byte_us",
            sa.BigInteger(),
            nullable=True,
            comment="Microseconds from arrival to the answer's first byte.",
        ),
        sa.Column(
            "duration_us", sa.BigInteger(), nullable=False, comment="Microseconds from arrival to the end."
        ),
        sa.Column(
            "queue_us",
            sa.BigInteger(),
            nullable=False,
            comment="Microseconds of these spent waiting for a place.",
        ),
        sa.Column(
            "cache_hit", sa.Boolean(), nullable=False, comment="Whether the gateway's own cache answered."
        ),
        sa.Column(
            "degraded",
            sa.Text(),
            nullable=True,
            comment="Mode it was admitted under while Redis was away: `share` or `open`.",
        ),
        sa.Column(
            "attempts",
            sa.SmallInteger(),
            nullable=False,
            comment="Calls upstream, those that failed included.",
        ),
        sa.PrimaryKeyConstraint("request_id", name=op.f("pk_requests")),
        schema=SCHEMA,
        comment="One row for each admitted request, however it ended.",
        postgresql_partition_by="RANGE (request_id)",
    )
    op.create_index(
        "ix_requests_admitted_at",
        "requests",
        ["admitted_at"],
        unique=False,
        schema=SCHEMA,
        postgresql_using="brin",
    )
    op.create_table(
        "attempts",
        sa.Column("request_id", sa.UUID(), nullable=False, comment="The request."),
        sa.Column("attempt", sa.SmallInteger(), nullable=False, comment="Counts up from 1."),
        sa.Column(
            "admitted_at",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="The request's admission; decides every period.",
        ),
        sa.Column(
            "started_at", sa.DateTime(timezone=True), nullable=False, comment="When the call upstream began."
        ),
        sa.Column("entity_id", sa.Text(), nullable=False, comment="Served entity called."),
        sa.Column("entity_name", sa.Text(), nullable=False, comment="That served entity's name then."),
        sa.Column("model", sa.Text(), nullable=False, comment="Model asked for upstream."),
        sa.Column(
            "outcome",
            sa.Text(),
            nullable=False,
            comment="`ok`, `cut`, `error`, `timeout`, `interrupted` or `excluded`.",
        ),
        sa.Column("http_status", sa.SmallInteger(), nullable=True, comment="Status the upstream gave."),
        sa.Column("error_code", sa.Text(), nullable=True, comment="What went wrong, in the gateway's words."),
        sa.Column("reason", sa.Text(), nullable=True, comment="Why it was chosen or left out."),
        *_usage(),
        sa.Column(
            "usage_source", sa.Text(), nullable=False, comment="`reported`, `counted`, `estimated` or `none`."
        ),
        sa.Column("price_id", sa.Text(), nullable=False, comment="Version of the price that made the cost."),
        sa.Column("cost_nano_usd", sa.BigInteger(), nullable=False, comment="What it cost, in 1e-9 dollars."),
        sa.Column(
            "borne",
            sa.Boolean(),
            nullable=False,
            comment="Whether the caller bears the cost; false for a try that was cut by a failure of ours and made again.",
        ),
        sa.Column(
            "first_byte_us",
            sa.BigInteger(),
            nullable=True,
            comment="Microseconds to the upstream's first byte.",
        ),
        sa.Column("duration_us", sa.BigInteger(), nullable=False, comment="Microseconds to its end."),
        sa.PrimaryKeyConstraint("request_id", "attempt", name=op.f("pk_attempts")),
        schema=SCHEMA,
        comment="One row for each call upstream.",
        postgresql_partition_by="RANGE (request_id)",
    )
    _sums("usage_hour", "hour")
    _sums("usage_day", "day")
    op.create_table(
        "spool_positions",
        sa.Column(
            "spool_id",
            sa.UUID(),
            nullable=False,
            comment="A worker's incarnation; the name of its spool's folder.",
        ),
        sa.Column("host", sa.Text(), nullable=False, comment="Host that has the spool."),
        sa.Column(
            "segment", sa.Integer(), nullable=False, comment="Segment in which reading would begin again."
        ),
        sa.Column(
            "offset", sa.BigInteger(), nullable=False, comment="Byte in it; all before is in the ledger."
        ),
        sa.Column(
            "complete_until",
            sa.DateTime(timezone=True),
            nullable=False,
            comment="All this spool's requests admitted before are in the ledger.",
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When this was so.",
        ),
        sa.Column(
            "closed_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When the last of it was posted after its owner had ended.",
        ),
        sa.PrimaryKeyConstraint("spool_id", name=op.f("pk_spool_positions")),
        schema=SCHEMA,
        comment="How far each spool has been posted.",
    )
    op.create_table(
        "audit_entries",
        sa.Column(
            "number",
            sa.BigInteger(),
            autoincrement=False,
            nullable=False,
            comment="Place in the chain, from 1 without a gap.",
        ),
        sa.Column("body", sa.Text(), nullable=False, comment="The text that was hashed: canonical JSON."),
        sa.Column(
            "digest",
            sa.LargeBinary(),
            nullable=False,
            comment="HMAC-SHA-256 of the previous digest followed by the body.",
        ),
        sa.Column(
            "at",
            sa.DateTime(timezone=True),
            sa.Computed(
                "to_timestamp(((body)::jsonb ->> 'at_us')::bigint / 1000000.0::double precision)",
                persisted=True,
            ),
            nullable=True,
            comment="When, by the database's clock.",
        ),
        sa.Column(
            "actor",
            sa.Text(),
            sa.Computed("(body)::jsonb ->> 'actor'", persisted=True),
            nullable=True,
            comment="Who did it.",
        ),
        sa.Column(
            "action",
            sa.Text(),
            sa.Computed("(body)::jsonb ->> 'action'", persisted=True),
            nullable=True,
            comment="What was done: `<object>.<verb>`.",
        ),
        sa.Column(
            "object_kind",
            sa.Text(),
            sa.Computed("(body)::jsonb ->> 'object_kind'", persisted=True),
            nullable=True,
            comment="Kind of the object.",
        ),
        sa.Column(
            "object_id",
            sa.Text(),
            sa.Computed("(body)::jsonb ->> 'object_id'", persisted=True),
            nullable=True,
            comment="The object.",
        ),
        sa.CheckConstraint("octet_length(digest) = 32", name=op.f("ck_audit_entries_digest_is_whole")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit_entries")),
        schema=SCHEMA,
        comment="Administrative changes and logins, chained: an edit is found by `weighbridge verify --audit`.",
    )
    op.create_index("ix_audit_entries_at", "audit_entries", ["at"], unique=False, schema=SCHEMA)
    op.create_index(
        "ix_audit_entries_object", "audit_entries", ["object_kind", "object_id"], unique=False, schema=SCHEMA
    )
    op.create_table(
        "audit_contents",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False, comment="The entry."),
        sa.Column(
            "salt",
            sa.LargeBinary(),
            nullable=False,
            comment="Random bytes that make the digest say nothing of the contents.",
        ),
        sa.Column(
            "content",
            sa.Text(),
            nullable=False,
            comment="Canonical JSON: before, after, reason. Its digest is in the entry.",
        ),
        sa.Column(
            "before",
            JSONB(),
            sa.Computed("(content)::jsonb -> 'before'", persisted=True),
            nullable=True,
            comment="The object before; null for none.",
        ),
        sa.Column(
            "after",
            JSONB(),
            sa.Computed("(content)::jsonb -> 'after'", persisted=True),
            nullable=True,
            comment="The object after; null for none.",
        ),
        sa.Column(
            "reason",
            sa.Text(),
            sa.Computed("(content)::jsonb ->> 'reason'", persisted=True),
            nullable=True,
            comment="Why, where it was said.",
        ),
        sa.ForeignKeyConstraint(
            ["number"], [f"{SCHEMA}.audit_entries.number"], name=op.f("fk_audit_contents_number")
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit_contents")),
        schema=SCHEMA,
        comment="What the entries are about; a row may be erased and the chain still holds.",
    )
    for parent in ("requests", "attempts"):
        op.execute(f"CREATE TABLE {SCHEMA}.{parent}_default PARTITION OF {SCHEMA}.{parent} DEFAULT")
    op.execute(UUID7_FLOOR)
    op.execute(MAKE_PARTITIONS)
    op.execute(f"REVOKE ALL ON FUNCTION {SCHEMA}.make_partitions(timestamptz, timestamptz) FROM PUBLIC")
    op.execute(f"GRANT USAGE ON SCHEMA {SCHEMA} TO {APPLICATION}")
    op.execute(
        f"GRANT EXECUTE ON FUNCTION {SCHEMA}.make_partitions(timestamptz, timestamptz) TO {APPLICATION}"
    )
    for table in ("requests", "attempts", "audit_entries", "audit_contents"):
        op.execute(f"GRANT SELECT, INSERT ON {SCHEMA}.{table} TO {APPLICATION}")
    for table in ("usage_hour", "usage_day"):
        op.execute(f"GRANT SELECT, INSERT, UPDATE ON {SCHEMA}.{table} TO {APPLICATION}")
    op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {SCHEMA}.spool_positions TO {APPLICATION}")
    op.execute(f"GRANT SELECT ON {SCHEMA}.alembic_version TO {APPLICATION}")


def downgrade() -> None:
    """Drop them, rows and all."""
    op.execute(f"DROP FUNCTION {SCHEMA}.make_partitions(timestamptz, timestamptz)")
    for table in (
        "audit_contents",
        "audit_entries",
        "spool_positions",
        "usage_day",
        "usage_hour",
        "attempts",
        "requests",
    ):
        op.drop_table(table, schema=SCHEMA)
    op.execute(f"DROP FUNCTION {SCHEMA}.uuid7_floor(timestamptz)")


UUID7_FLOOR = """
CREATE FUNCTION gateway.uuid7_floor(at timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0') || '00000000000000000000')::uuid
"""

# A week (from Monday, UTC) a partition. What the default partition took meanwhile moves over before the new one is
# attached, which locks writers out for the moment of attaching only.
MAKE_PARTITIONS = """
CREATE FUNCTION gateway.make_partitions(
    since timestamptz DEFAULT now() - interval '1 week', until timestamptz DEFAULT now() + interval '4 weeks'
) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    monday timestamp := date_trunc('week', since AT TIME ZONE 'UTC');
    made integer := 0;
    parent text;
    part text;
    low uuid;
    high uuid;
    held boolean;
    columns text;
BEGIN
    IF until - since > interval '10 years' THEN
        RAISE EXCEPTION 'partitions are made for 10 years at once at the most' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(1463943170);
    WHILE monday <= until AT TIME ZONE 'UTC' LOOP
        low := gateway.uuid7_floor(monday AT TIME ZONE 'UTC');
        high := gateway.uuid7_floor((monday + interval '1 week') AT TIME ZONE 'UTC');
        FOREACH parent IN ARRAY ARRAY['requests', 'attempts'] LOOP
            part := parent || to_char(monday, '_YYYYMMDD');
            CONTINUE WHEN to_regclass(format('gateway.%I', part)) IS NOT NULL;
            EXECUTE format('CREATE TABLE gateway.%I (LIKE gateway.%I INCLUDING ALL)', part, parent);
            EXECUTE format('SELECT EXISTS (SELECT FROM gateway.%I WHERE request_id >= $1 AND request_id < $2)',
                           parent || '_default') INTO held USING low, high;
            IF held THEN
                SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO columns FROM pg_attribute
                WHERE attrelid = format('gateway.%I', parent)::regclass
                  AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
                EXECUTE format('WITH moved AS (DELETE FROM gateway.%1$I WHERE request_id >= $1 AND request_id < $2'
                               ' RETURNING *) INSERT INTO gateway.%2$I (%3$s) SELECT %3$s FROM moved',
                               parent || '_default', part, columns) USING low, high;
            END IF;
            EXECUTE format('ALTER TABLE gateway.%I ATTACH PARTITION gateway.%I FOR VALUES FROM (%L) TO (%L)',
                           parent, part, low, high);
            made := made + 1;
        END LOOP;
        monday := monday + interval '1 week';
    END LOOP;
    RETURN made;
END
$body$
"""


def _usage() -> list[sa.Column[int]]:
    """Disjoint classes of tokens, and their sums."""
    return [
        sa.Column(
            "fresh_input",
            sa.BigInteger(),
            nullable=False,
            comment="Input tokens processed at the full price.",
        ),
        sa.Column("cache_read", sa.BigInteger(), nullable=False, comment="Input tokens read from a cache."),
        sa.Column("cache_write", sa.BigInteger(), nullable=False, comment="Input tokens written to a cache."),
        sa.Column(
            "output", sa.BigInteger(), nullable=False, comment="Output tokens, reasoning not included."
        ),
        sa.Column("reasoning", sa.BigInteger(), nullable=False, comment="Output tokens spent on reasoning."),
        sa.Column(
            "prompt_tokens",
            sa.BigInteger(),
            sa.Computed("fresh_input + cache_read + cache_write", persisted=True),
            nullable=True,
            comment="All of the input.",
        ),
        sa.Column(
            "completion_tokens",
            sa.BigInteger(),
            sa.Computed("output + reasoning", persisted=True),
            nullable=True,
            comment="All of the output.",
        ),
    ]


def _sums(name: str, period: str) -> None:
    """A table of sums by period and whatever reports ask for."""
    op.create_table(
        name,
        sa.Column(
            "period",
            sa.DateTime(timezone=True),
            nullable=False,
            comment=f"Start of the {period}, UTC, by `admitted_at`.",
        ),
        sa.Column("principal_id", sa.Text(), nullable=False, comment="Who asked."),
        sa.Column("key_id", sa.Text(), nullable=False, comment="API key; empty for none."),
        sa.Column("group_id", sa.Text(), nullable=False, comment="Charged group; empty for none."),
        sa.Column("endpoint_id", sa.Text(), nullable=False, comment="Endpoint."),
        sa.Column(
            "entity_id",
            sa.Text(),
            nullable=False,
            comment="Served entity of the last attempt; empty for none.",
        ),
        sa.Column("api", sa.Text(), nullable=False, comment="Way in."),
        sa.Column("status", sa.Text(), nullable=False, comment="How the requests ended."),
        sa.Column("requests", sa.BigInteger(), nullable=False, comment="Number of requests."),
        sa.Column("attempts", sa.BigInteger(), nullable=False, comment="Number of their calls upstream."),
        sa.Column(
            "streams", sa.BigInteger(), nullable=False, comment="Number of requests that were streams."
        ),
        sa.Column(
            "cache_hits",
            sa.BigInteger(),
            nullable=False,
            comment="Number answered by the gateway's own cache.",
        ),
        sa.Column(
            "not_reported",
            sa.BigInteger(),
            nullable=False,
            comment="Number whose usage was counted or estimated.",
        ),
        *_usage(),
        sa.Column(
            "cost_nano_usd",
            sa.BigInteger(),
            nullable=False,
            comment="Sum of what callers bear, in 1e-9 dollars.",
        ),
        sa.Column("duration_us", sa.BigInteger(), nullable=False, comment="Sum of durations."),
        sa.Column(
            "queue_us", sa.BigInteger(), nullable=False, comment="Sum of times spent waiting for a place."
        ),
        sa.Column(
            "first_bytes",
            sa.BigInteger(),
            nullable=False,
            comment="Number of requests that had a first byte.",
        ),
        sa.Column("first_byte_us", sa.BigInteger(), nullable=False, comment="Sum of their times to it."),
        sa.PrimaryKeyConstraint(
            "period",
            "principal_id",
            "key_id",
            "group_id",
            "endpoint_id",
            "entity_id",
            "api",
            "status",
            name=f"pk_{name}",
        ),
        schema=SCHEMA,
        comment=f"Sums of `requests` by {period}, changed in the transaction that posts the rows.",
    )
