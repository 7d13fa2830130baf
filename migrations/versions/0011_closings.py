"""Balances of budgets, numbers of the spools' records, and weeks of the ledger that are closed and dropped.

Revision ID: 0011
Revises: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

SCHEMA = "gateway"
APPLICATION = "weighbridge_app"
KEY = ("period", "principal_id", "key_id", "group_id", "endpoint_id", "entity_id", "api", "status")
SUMS = (
    "requests", "attempts", "streams", "cache_hits", "not_reported", "fresh_input", "cache_read", "cache_write",
    "output", "reasoning", "cost_nano_usd", "duration_us", "queue_us", "first_bytes", "first_byte_us",
)  # fmt: skip
FUNCTIONS = (
    "close_week(date)",
    "drop_week(date)",
    "closing_digests(date)",
    "weeks_before(timestamptz)",
    "week_low(date)",
)


def upgrade() -> None:
    """Add the columns, the tables and the functions; what is closed, the application reads and never changes."""
    # One column a line.
    # fmt: off
    op.add_column("requests", sa.Column("begun_number", sa.BigInteger(), nullable=True, comment="Number of its intent among the intents and settlements of its worker's spool; null: written before they were numbered."), schema=SCHEMA)
    op.add_column("requests", sa.Column("ended_number", sa.BigInteger(), nullable=True, comment="Number of its settlement there; null: its worker died, or as above."), schema=SCHEMA)
    op.create_table(
        "balances",
        *_balance(),
        sa.PrimaryKeyConstraint("limit_id", "subject", "period", name=op.f("pk_balances")),
        schema=SCHEMA,
        comment="What each budget was charged, by subject and period: changed in the transaction that posts the rows.",
    )
    op.create_table(
        "ledger_closings",
        sa.Column("week", sa.Date(), nullable=False, comment="Monday of the week, UTC, whose requests and attempts were dropped."),
        sa.Column("low", sa.UUID(), nullable=False, comment="The least request id of that week."),
        sa.Column("high", sa.UUID(), nullable=False, comment="The least request id after it: no row below it is taken in any more."),
        sa.Column("closed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When."),
        sa.Column("requests", sa.BigInteger(), nullable=False, comment="Requests that it held."),
        sa.Column("attempts", sa.BigInteger(), nullable=False, comment="Attempts that it held."),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False, comment="Sum of its requests' input."),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False, comment="Sum of its requests' output."),
        sa.Column("cost_nano_usd", sa.BigInteger(), nullable=False, comment="Sum of what its requests' callers bear, in 1e-9 dollars."),
        sa.Column("attempts_nano_usd", sa.BigInteger(), nullable=False, comment="Sum of what its attempts cost, in 1e-9 dollars."),
        sa.Column("requests_digest", sa.Text(), nullable=False, comment="SHA-256 of the SHA-256s of its requests as text, by id."),
        sa.Column("attempts_digest", sa.Text(), nullable=False, comment="The same of its attempts."),
        sa.PrimaryKeyConstraint("week", name=op.f("pk_ledger_closings")),
        schema=SCHEMA,
        comment="Weeks of the ledger that retention has dropped; the audit's chain has the same, and digests of their sums.",
    )
    op.create_table(
        "closed_usage",
        _week(),
        sa.Column("period", sa.DateTime(timezone=True), nullable=False, comment="Start of the hour, UTC, by `admitted_at`."),
        *(sa.Column(name, sa.Text(), nullable=False, comment="As in `usage_hour`.") for name in KEY[1:]),
        *(sa.Column(name, sa.BigInteger(), nullable=False, comment="As in `usage_hour`.") for name in SUMS),
        sa.PrimaryKeyConstraint("week", *KEY, name=op.f("pk_closed_usage")),
        schema=SCHEMA,
        comment="What a dropped week added to `usage_hour` and `usage_day`.",
    )
    op.create_table(
        "closed_balances",
        _week(),
        *_balance(),
        sa.PrimaryKeyConstraint("week", "limit_id", "subject", "period", name=op.f("pk_closed_balances")),
        schema=SCHEMA,
        comment="What a dropped week added to `balances`.",
    )
    op.create_table(
        "closed_spools",
        _week(),
        sa.Column("worker_id", sa.UUID(), nullable=False, comment="A worker's spool."),
        sa.Column("records", sa.BigInteger(), nullable=False, comment="Its numbered intents and settlements that the week held."),
        sa.PrimaryKeyConstraint("week", "worker_id", name=op.f("pk_closed_spools")),
        schema=SCHEMA,
        comment="What a dropped week held of each spool's records.",
    )
    # fmt: on
    for statement in (WEEK_LOW, WEEKS_BEFORE, CLOSING_DIGESTS, CLOSE_WEEK, DROP_WEEK, REFUSE_CLOSED):
        _run(statement)
    _run(MAKE_PARTITIONS.replace("-- closed --", SKIP_CLOSED))
    for parent in ("requests", "attempts"):
        _run(
            f"CREATE TRIGGER closed BEFORE INSERT ON {SCHEMA}.{parent}_default FOR EACH ROW"
            f" EXECUTE FUNCTION {SCHEMA}.refuse_closed()"
        )
    for function in FUNCTIONS:
        _run(f"REVOKE ALL ON FUNCTION {SCHEMA}.{function} FROM PUBLIC")
        _run(f"GRANT EXECUTE ON FUNCTION {SCHEMA}.{function} TO {APPLICATION}")
    for table in ("ledger_closings", "closed_usage", "closed_balances", "closed_spools"):
        _run(f"GRANT SELECT ON {SCHEMA}.{table} TO {APPLICATION}")
    _run(f"GRANT SELECT, INSERT, UPDATE ON {SCHEMA}.balances TO {APPLICATION}")


def downgrade() -> None:
    """Drop what was added; what weeks that are gone added to the sums stays in these."""
    for parent in ("requests", "attempts"):
        _run(f"DROP TRIGGER closed ON {SCHEMA}.{parent}_default")
    _run(MAKE_PARTITIONS.replace("-- closed --", ""))
    for function in ("refuse_closed()", *FUNCTIONS):
        _run(f"DROP FUNCTION {SCHEMA}.{function}")
    for table in ("closed_spools", "closed_balances", "closed_usage", "ledger_closings", "balances"):
        op.drop_table(table, schema=SCHEMA)
    for column in ("ended_number", "begun_number"):
        op.drop_column("requests", column, schema=SCHEMA)


def _week() -> sa.Column[object]:
    return sa.Column("week", sa.Date(), nullable=False, comment="The dropped week.")


def _balance() -> list[sa.Column[object]]:
    # fmt: off
    return [
        sa.Column("limit_id", sa.Text(), nullable=False, comment="The budget."),
        sa.Column("subject", sa.Text(), nullable=False, comment="Whose spend it is; empty for the deployment."),
        sa.Column("period", sa.DateTime(timezone=True), nullable=False, comment="Start of the budget's period, by `admitted_at`."),
        sa.Column("requests", sa.BigInteger(), nullable=False, comment="Requests that it was charged for."),
        sa.Column("nano_usd", sa.BigInteger(), nullable=False, comment="What they cost, in 1e-9 dollars."),
    ]
    # fmt: on


def _run(statement: str) -> None:
    # Letter by letter: no colon in it is taken for a parameter.
    op.get_bind().exec_driver_sql(statement)


_SUMMED = """
    count(*) AS requests, sum(attempts) AS attempts, count(*) FILTER (WHERE stream) AS streams,
    count(*) FILTER (WHERE cache_hit) AS cache_hits,
    count(*) FILTER (WHERE usage_source IN ('counted', 'estimated')) AS not_reported,
    sum(fresh_input) AS fresh_input, sum(cache_read) AS cache_read, sum(cache_write) AS cache_write, sum(output) AS output,
    sum(reasoning) AS reasoning, sum(cost_nano_usd) AS cost_nano_usd, sum(duration_us) AS duration_us,
    sum(queue_us) AS queue_us, count(first_byte_us) AS first_bytes, coalesce(sum(first_byte_us), 0) AS first_byte_us"""
# Plain names: the functions' search_path is the system's own.
_SETTINGS = "SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO, YMD'"

WEEK_LOW = """
CREATE FUNCTION gateway.week_low(week date) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN gateway.uuid7_floor(week::timestamp AT TIME ZONE 'UTC')
"""

# Weeks that have ended before, oldest first: those that have a partition, and those of the default partition's rows.
WEEKS_BEFORE = f"""
CREATE FUNCTION gateway.weeks_before(before timestamptz) RETURNS SETOF date
LANGUAGE sql STABLE SECURITY DEFINER {_SETTINGS} AS $body$
    SELECT week FROM (
        SELECT to_date(right(relname, 8), 'YYYYMMDD') AS week FROM pg_class JOIN pg_inherits ON inhrelid = oid
        WHERE inhparent = 'gateway.requests'::regclass AND relname ~ '^requests_[0-9]{{8}}$'
        UNION SELECT date_trunc('week', to_timestamp(('x' || left(replace(oldest::text, '-', ''), 12))::bit(48)::bigint / 1000.0))::date
        FROM (SELECT request_id AS oldest FROM gateway.requests_default ORDER BY request_id LIMIT 1) AS outside
    ) AS weeks
    WHERE (week + 7)::timestamp AT TIME ZONE 'UTC' <= before ORDER BY week
$body$
"""  # noqa: S608 - made of this module's own names

CLOSING_DIGESTS = f"""
CREATE FUNCTION gateway.closing_digests(closed date) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER {_SETTINGS} AS $body$
    SELECT jsonb_build_object(
        'usage', (SELECT encode(sha256(coalesce(string_agg(sha256(convert_to(each::text, 'UTF8')), ''::bytea
            ORDER BY {", ".join(KEY)}), ''::bytea)), 'hex') FROM gateway.closed_usage AS each WHERE week = closed),
        'balances', (SELECT encode(sha256(coalesce(string_agg(sha256(convert_to(each::text, 'UTF8')), ''::bytea
            ORDER BY limit_id, subject, period), ''::bytea)), 'hex') FROM gateway.closed_balances AS each WHERE week = closed),
        'spools', (SELECT encode(sha256(coalesce(string_agg(sha256(convert_to(each::text, 'UTF8')), ''::bytea
            ORDER BY worker_id), ''::bytea)), 'hex') FROM gateway.closed_spools AS each WHERE week = closed)
    )
$body$
"""  # noqa: S608 - made of this module's own names

# Takes down what a week holds. Nothing may be written to it meanwhile; reading goes on.
CLOSE_WEEK = f"""
CREATE FUNCTION gateway.close_week(closed date) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER {_SETTINGS} AS $body$
DECLARE
    starts timestamptz := closed::timestamp AT TIME ZONE 'UTC';
    ends timestamptz := (closed + 7)::timestamp AT TIME ZONE 'UTC';
    part text := to_char(closed, '_YYYYMMDD');
    low uuid := gateway.week_low(closed);
    high uuid := gateway.week_low(closed + 7);
    behind uuid;
    told jsonb;
BEGIN
    IF closed IS NULL OR extract(isodow FROM closed) <> 1 OR ends > now() - interval '4 weeks' THEN
        RAISE EXCEPTION 'a week is named by its Monday and closed four weeks after its end at the earliest'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT spool_id INTO behind FROM gateway.spool_positions WHERE closed_at IS NULL AND complete_until < ends LIMIT 1;
    IF behind IS NOT NULL THEN
        RAISE EXCEPTION 'the spool % may still hold requests of that week', behind USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    PERFORM gateway.make_partitions(starts, starts);
    EXECUTE format('LOCK TABLE gateway.%I, gateway.%I IN EXCLUSIVE MODE', 'requests' || part, 'attempts' || part);
    INSERT INTO gateway.closed_usage (week, {", ".join(KEY)}, {", ".join(SUMS)})
        SELECT closed, date_trunc('hour', admitted_at, 'UTC') AS period, principal_id, coalesce(key_id, ''), coalesce(group_id, ''),
            endpoint_id, coalesce(entity_id, ''), api, status, {_SUMMED}
        FROM gateway.requests WHERE request_id >= low AND request_id < high GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9;
    INSERT INTO gateway.closed_balances (week, limit_id, subject, period, requests, nano_usd)
        SELECT closed, charge ->> 'limit', charge ->> 'subject', to_timestamp((charge ->> 'period_ms')::bigint / 1000.0::float8),
            count(*), sum((charge ->> 'actual')::bigint)
        FROM gateway.requests, jsonb_array_elements(charges) AS charge
        WHERE request_id >= low AND request_id < high AND charge ->> 'metric' = 'money' AND charge ? 'period_ms' GROUP BY 1, 2, 3, 4;
    INSERT INTO gateway.closed_spools (week, worker_id, records)
        SELECT closed, worker_id, count(begun_number) + count(ended_number) FROM gateway.requests
        WHERE request_id >= low AND request_id < high GROUP BY 1, 2;
    INSERT INTO gateway.ledger_closings (week, low, high, requests, attempts, prompt_tokens, completion_tokens, cost_nano_usd,
        attempts_nano_usd, requests_digest, attempts_digest)
        SELECT closed, low, high, held.rows, made.rows, held.prompt, held.completion, held.cost, made.cost, held.digest, made.digest
        FROM (
            SELECT count(*) AS rows, coalesce(sum(prompt_tokens), 0) AS prompt, coalesce(sum(completion_tokens), 0) AS completion,
                coalesce(sum(cost_nano_usd), 0) AS cost,
                encode(sha256(coalesce(string_agg(sha256(convert_to(each::text, 'UTF8')), ''::bytea ORDER BY request_id), ''::bytea)), 'hex') AS digest
            FROM gateway.requests AS each WHERE request_id >= low AND request_id < high
        ) AS held, (
            SELECT count(*) AS rows, coalesce(sum(cost_nano_usd), 0) AS cost,
                encode(sha256(coalesce(string_agg(sha256(convert_to(each::text, 'UTF8')), ''::bytea ORDER BY request_id, attempt), ''::bytea)), 'hex') AS digest
            FROM gateway.attempts AS each WHERE request_id >= low AND request_id < high
        ) AS made
        RETURNING to_jsonb(ledger_closings) - 'closed_at' INTO told;
    -- Waited for here, where nobody waits for us yet: from now on it is a moment until the end.
    SET LOCAL lock_timeout = '5s';
    LOCK TABLE gateway.requests, gateway.attempts IN ACCESS EXCLUSIVE MODE;
    RETURN told || jsonb_build_object('digests', gateway.closing_digests(closed));
END
$body$
"""  # noqa: S608 - made of this module's own names

DROP_WEEK = f"""
CREATE FUNCTION gateway.drop_week(closed date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER {_SETTINGS} AS $body$
BEGIN
    IF NOT EXISTS (SELECT FROM gateway.ledger_closings WHERE week = closed) OR NOT EXISTS (
        SELECT FROM gateway.audit_entries WHERE object_kind = 'ledger_week' AND object_id = closed::text AND action = 'ledger.close'
    ) THEN
        RAISE EXCEPTION 'the week % has no closing record in the audit', closed USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    EXECUTE format('DROP TABLE gateway.%I, gateway.%I', to_char(closed, '"requests"_YYYYMMDD'), to_char(closed, '"attempts"_YYYYMMDD'));
END
$body$
"""  # noqa: S608 - made of this module's own names

REFUSE_CLOSED = f"""
CREATE FUNCTION gateway.refuse_closed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER {_SETTINGS} AS $body$
BEGIN
    IF EXISTS (SELECT FROM gateway.ledger_closings WHERE NEW.request_id >= low AND NEW.request_id < high) THEN
        RAISE EXCEPTION 'the week of request % is closed', NEW.request_id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$body$
"""

SKIP_CLOSED = """
        IF EXISTS (SELECT FROM gateway.ledger_closings WHERE week = monday::date) THEN
            monday := monday + interval '1 week';
            CONTINUE;
        END IF;"""
# As before, but that a closed week is not made again.
MAKE_PARTITIONS = """
CREATE OR REPLACE FUNCTION gateway.make_partitions(
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
    WHILE monday <= until AT TIME ZONE 'UTC' LOOP-- closed --
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
