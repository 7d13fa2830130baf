"""Calls to models from SQL: the queue that they wait in, what a caller may do with it, and whom SQL roles stand for.

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from migrations.views import run

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

SCHEMA = "gateway"
APPLICATION = "weighbridge_app"
CALLER = "weighbridge_caller"

# Nobody but the owner reads these tables. Unlogged: a prompt is in no write-ahead log and in no backup, and after a
# crash of the server there is nobody left who waits.
TABLES = (
    """
CREATE UNLOGGED TABLE weighbridge_calls.calls (
    ticket uuid PRIMARY KEY,
    request_id uuid NOT NULL UNIQUE,
    login text NOT NULL,
    caller text NOT NULL,
    kind text NOT NULL,
    endpoint text NOT NULL,
    body text NOT NULL,
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'running', 'kept', 'done', 'gone')),
    asked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    left_at timestamptz,
    worker uuid,
    records bytea,
    settlement bytea,
    answer text
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 500)
""",
    """
CREATE UNLOGGED TABLE weighbridge_calls.workers (
    worker uuid PRIMARY KEY,
    seen_at timestamptz NOT NULL
) WITH (fillfactor = 50)
""",
)
COMMENTS = {
    "TABLE weighbridge_calls.calls": "Calls from SQL while they wait or run; the owner's alone.",
    "COLUMN weighbridge_calls.calls.ticket": "What the waiting side knows the call by; chosen there, at random.",
    "COLUMN weighbridge_calls.calls.request_id": "The request in the ledger, whatever happens to those who run it.",
    "COLUMN weighbridge_calls.calls.login": "Role that the waiting side logged in as.",
    "COLUMN weighbridge_calls.calls.caller": "SQL role on whose behalf, as the waiting side says.",
    "COLUMN weighbridge_calls.calls.state": "waiting, running, kept (answered, not settled yet), done, or gone (left before it came).",
    "COLUMN weighbridge_calls.calls.seen_at": "When the waiting side was last heard of.",
    "COLUMN weighbridge_calls.calls.left_at": "When it said that it waits no longer.",
    "COLUMN weighbridge_calls.calls.worker": "Spool of the process that runs it.",
    "COLUMN weighbridge_calls.calls.records": "Of a run that was cut by a kill: its records for the books. No prompt.",
    "COLUMN weighbridge_calls.calls.settlement": "How it ended, for the books, until it is in a spool. No prompt.",
    "COLUMN weighbridge_calls.calls.answer": "What the waiting side is told, as JSON.",
    "TABLE weighbridge_calls.workers": "Processes that answer calls from SQL.",
}
_DEFINER = "SECURITY DEFINER SET search_path = pg_catalog, pg_temp"
# For the waiting side. A login sees and touches only what it asked itself.
WAITING_SIDE = (
    """
CREATE FUNCTION weighbridge_calls.request_id() RETURNS uuid LANGUAGE sql VOLATILE
    COMMENTED 'A UUIDv7: the ledger is partitioned on it.' AS $$
    SELECT encode(set_byte(made, 6, (get_byte(made, 6) & 15) | 112), 'hex')::uuid
      FROM (SELECT overlay(uuid_send(gen_random_uuid())
                     PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::int8) FROM 3) FROM 1 FOR 6)
           ) AS fresh (made)
$$
""",
    """
CREATE FUNCTION weighbridge_calls.submit(fresh jsonb) RETURNS void LANGUAGE plpgsql VOLATILE DEFINED
    COMMENTED 'Put calls into the queue, for the login that is connected.' AS $$
BEGIN
    -- What was cancelled before it came is there already, and stays cancelled.
    INSERT INTO weighbridge_calls.calls (ticket, request_id, login, caller, kind, endpoint, body)
    SELECT (value->>'ticket')::uuid, weighbridge_calls.request_id(), session_user,
           value->>'caller', value->>'kind', value->>'endpoint', value->>'body'
      FROM jsonb_array_elements(fresh)
        ON CONFLICT (ticket) DO NOTHING;
    PERFORM pg_notify('weighbridge_calls', '');
END $$
""",
    """
CREATE FUNCTION weighbridge_calls.ready(awaited uuid[]) RETURNS boolean LANGUAGE sql VOLATILE DEFINED
    COMMENTED 'Whether take() would give anything.' AS $$
    SELECT count(*) FILTER (WHERE state IN ('waiting', 'running', 'kept')) < cardinality(awaited)
      FROM weighbridge_calls.calls WHERE ticket = ANY (awaited) AND login = session_user
$$
""",
    """
CREATE FUNCTION weighbridge_calls.take(awaited uuid[]) RETURNS jsonb LANGUAGE plpgsql VOLATILE DEFINED
    COMMENTED 'Hand over what has ended, deleting it; the rest is still waited for.' AS $$
DECLARE
    ended jsonb;
    lost jsonb;
BEGIN
    WITH taken AS (
        DELETE FROM weighbridge_calls.calls WHERE ticket = ANY (awaited) AND login = session_user AND state = 'done'
        RETURNING ticket, answer)
    SELECT jsonb_agg(answer::jsonb || jsonb_build_object('ticket', ticket)) INTO ended FROM taken;
    IF jsonb_array_length(ended) = cardinality(awaited) THEN
        RETURN ended;
    END IF;
    UPDATE weighbridge_calls.calls SET seen_at = clock_timestamp()
     WHERE ticket = ANY (awaited) AND login = session_user AND left_at IS NULL;
    SELECT jsonb_agg(jsonb_build_object('ticket', one, 'code', '58000',
               'message', 'The call was given up: for a second nobody was seen to wait for it, or the server was restarted.'))
      INTO lost
      FROM unnest(awaited) AS one
     WHERE NOT EXISTS (SELECT FROM weighbridge_calls.calls
                        WHERE ticket = one AND login = session_user AND state <> 'gone')
       AND NOT coalesce(ended, '[]') @> jsonb_build_array(jsonb_build_object('ticket', one));
    UPDATE weighbridge_calls.calls SET state = 'done', answer = jsonb_build_object(
               'code', '57P03', 'message', 'No process of the gateway answers calls from SQL.',
               'hint', 'Start it with `weighbridge up` or `weighbridge serve`, then call again.')::text
     WHERE ticket = ANY (awaited) AND login = session_user AND state = 'waiting' AND records IS NULL
       AND asked_at < clock_timestamp() - interval '15 s'
       -- One that was killed has a minute to come back.
       AND NOT EXISTS (SELECT FROM weighbridge_calls.workers WHERE seen_at > clock_timestamp() - interval '60 s');
    RETURN coalesce(ended, '[]') || coalesce(lost, '[]');
END $$
""",
    """
CREATE FUNCTION weighbridge_calls.cancel(tickets uuid[]) RETURNS void LANGUAGE plpgsql VOLATILE DEFINED
    COMMENTED 'Nobody waits for these any more.' AS $$
BEGIN
    UPDATE weighbridge_calls.calls SET left_at = clock_timestamp()
     WHERE ticket = ANY (tickets) AND login = session_user AND left_at IS NULL;
    DELETE FROM weighbridge_calls.calls
     WHERE ticket = ANY (tickets) AND login = session_user AND (state = 'done' OR worker IS NULL AND records IS NULL);
    -- Its submission may still be on the way.
    INSERT INTO weighbridge_calls.calls (ticket, request_id, login, caller, kind, endpoint, body, state, left_at)
    SELECT one, weighbridge_calls.request_id(), session_user, '', '', '', '', 'gone', clock_timestamp()
      FROM unnest(tickets) AS one
        ON CONFLICT (ticket) DO NOTHING;
    PERFORM pg_notify('weighbridge_calls_left', '');
END $$
""",
    # Not of the definer's rights: only so may it commit, and only after a commit can others see what was asked. Each look
    # is a transaction of its own, so that an answer is seen whatever the isolation.
    """
CREATE PROCEDURE weighbridge_calls.exchange(fresh jsonb, awaited uuid[], INOUT ended jsonb) LANGUAGE plpgsql
    COMMENTED 'Submit new calls, wait a quarter of a second at most for any of the awaited ones, hand over what has ended.' AS $$
DECLARE
    until timestamptz := clock_timestamp() + interval '250 ms';
    nap double precision := 0.001;
BEGIN
    IF fresh <> '[]' THEN
        PERFORM weighbridge_calls.submit(fresh);
        COMMIT;
    END IF;
    WHILE NOT weighbridge_calls.ready(awaited) AND clock_timestamp() < until LOOP
        COMMIT;
        PERFORM pg_sleep(nap);
        nap := least(nap * 1.1, 0.02);
    END LOOP;
    IF cardinality(awaited) > 1 THEN
        -- Others that end now come along.
        COMMIT;
        PERFORM pg_sleep(0.002);
    END IF;
    ended := weighbridge_calls.take(awaited);
END $$
""",
)
# For the processes that answer, and for the drainer that looks after what dead ones left.
ANSWERING_SIDE = (
    """
CREATE FUNCTION weighbridge_calls.claim(own uuid, most integer)
    RETURNS TABLE (ticket uuid, request_id uuid, caller text, principal_id uuid, kind text, endpoint text, body text, records bytea)
    LANGUAGE sql VOLATILE DEFINED COMMENTED 'Take calls that wait, oldest first; nobody else gets them.' AS $$
    UPDATE weighbridge_calls.calls AS call SET worker = own, state = 'running'
     WHERE call.ticket IN (
               SELECT waiting.ticket FROM weighbridge_calls.calls AS waiting
                WHERE waiting.state = 'waiting' AND waiting.worker IS NULL AND waiting.left_at IS NULL
                  AND waiting.seen_at > clock_timestamp() - interval '1 s'
                ORDER BY waiting.request_id LIMIT most FOR UPDATE SKIP LOCKED)
    RETURNING call.ticket, call.request_id, call.caller,
              (SELECT mapped.principal_id FROM gateway.sql_roles AS mapped
                WHERE mapped.login = call.login AND mapped.sql_role = call.caller AND mapped.to_change IS NULL),
              call.kind, call.endpoint, call.body, call.records
$$
""",
    """
CREATE FUNCTION weighbridge_calls.stranded(own uuid) RETURNS TABLE (ticket uuid, request_id uuid, records bytea)
    LANGUAGE sql VOLATILE DEFINED
    COMMENTED 'Take calls that were begun once, wait to be begun again, and are waited for by nobody.' AS $$
    UPDATE weighbridge_calls.calls AS call SET worker = own, state = 'running'
     WHERE call.ticket IN (
               SELECT waiting.ticket FROM weighbridge_calls.calls AS waiting
                WHERE waiting.state = 'waiting' AND waiting.worker IS NULL AND waiting.records IS NOT NULL
                  AND (waiting.left_at IS NOT NULL OR waiting.seen_at < clock_timestamp() - interval '2 s')
                LIMIT 100 FOR UPDATE SKIP LOCKED)
    RETURNING call.ticket, call.request_id, call.records
$$
""",
    """
CREATE FUNCTION weighbridge_calls.beat(own uuid) RETURNS TABLE (ticket uuid, left_alone boolean)
    LANGUAGE sql VOLATILE DEFINED
    COMMENTED 'Say that a process lives; the calls it runs that nobody waits for, or whose role stands for nobody any more.' AS $$
    INSERT INTO weighbridge_calls.workers VALUES (own, clock_timestamp())
        ON CONFLICT (worker) DO UPDATE SET seen_at = excluded.seen_at;
    SELECT running.ticket, running.left_alone FROM (
        SELECT call.ticket, call.left_at IS NOT NULL OR call.seen_at < clock_timestamp() - interval '1 s' AS left_alone,
               EXISTS (SELECT FROM gateway.sql_roles AS mapped
                        WHERE mapped.login = call.login AND mapped.sql_role = call.caller AND mapped.to_change IS NULL) AS mapped
          FROM weighbridge_calls.calls AS call WHERE call.worker = own AND call.state IN ('running', 'kept')) AS running
     WHERE running.left_alone OR NOT running.mapped
$$
""",
    """
CREATE FUNCTION weighbridge_calls.keep(own uuid, one uuid, told text, how bytea) RETURNS boolean
    LANGUAGE plpgsql VOLATILE DEFINED
    COMMENTED 'Put an answer into safety before it is settled; false where nobody waits for it any more.' AS $$
BEGIN
    UPDATE weighbridge_calls.calls SET state = 'kept', answer = told, settlement = how
     WHERE ticket = one AND worker = own AND state = 'running' AND left_at IS NULL;
    RETURN FOUND;
END $$
""",
    """
CREATE FUNCTION weighbridge_calls.tell(own uuid, one uuid, told text) RETURNS void LANGUAGE sql VOLATILE DEFINED
    COMMENTED 'Let the waiting side have what was kept, or what is given here.' AS $$
    UPDATE weighbridge_calls.calls SET state = 'done', answer = coalesce(told, answer), settlement = NULL, records = NULL
     WHERE ticket = one AND worker = own AND state IN ('running', 'kept')
$$
""",
    """
CREATE FUNCTION weighbridge_calls.forget(own uuid, tickets uuid[]) RETURNS void LANGUAGE sql VOLATILE DEFINED
    COMMENTED 'Delete calls that nobody waits for; they are in the books.' AS $$
    DELETE FROM weighbridge_calls.calls WHERE ticket = ANY (tickets) AND worker = own
$$
""",
    """
CREATE FUNCTION weighbridge_calls.sweep() RETURNS void LANGUAGE sql VOLATILE DEFINED
    COMMENTED 'Delete what was never fetched, and what nobody waits for.' AS $$
    DELETE FROM weighbridge_calls.calls WHERE state IN ('done', 'gone') AND seen_at < clock_timestamp() - interval '10 min';
    DELETE FROM weighbridge_calls.calls WHERE state = 'waiting' AND records IS NULL AND seen_at < clock_timestamp() - interval '5 s';
    DELETE FROM weighbridge_calls.workers WHERE seen_at < clock_timestamp() - interval '10 min'
$$
""",
    """
CREATE FUNCTION weighbridge_calls.kept(dead uuid) RETURNS TABLE (request_id uuid, settlement bytea)
    LANGUAGE sql VOLATILE DEFINED COMMENTED 'How calls ended that a dead process had answered and not yet told.' AS $$
    SELECT call.request_id, call.settlement FROM weighbridge_calls.calls AS call WHERE worker = dead AND state = 'kept'
$$
""",
    """
CREATE FUNCTION weighbridge_calls.resume(dead uuid, ids uuid[], notes bytea[], numbers bigint[]) RETURNS SETOF uuid
    LANGUAGE plpgsql VOLATILE DEFINED
    COMMENTED 'Let others begin again what a dead process had begun; the ids that are theirs from now on.' AS $$
BEGIN
    WITH handed AS (
        UPDATE weighbridge_calls.calls AS call SET worker = NULL, state = 'waiting', records = given.note
          FROM unnest(ids, notes, numbers) AS given (id, note, number)
         WHERE call.request_id = given.id AND call.worker = dead AND call.state = 'running'
           AND call.left_at IS NULL AND call.seen_at > clock_timestamp() - interval '1 s'
        RETURNING call.request_id, given.number)
    INSERT INTO gateway.resumed_requests (request_id, worker_id, begun_number)
    SELECT request_id, dead, nullif(number, 0) FROM handed ON CONFLICT DO NOTHING;
    -- Claimed and not begun.
    UPDATE weighbridge_calls.calls SET worker = NULL, state = 'waiting'
     WHERE worker = dead AND state = 'running' AND NOT request_id = ANY (ids);
    -- Begun and left: the caller of this function settles them.
    DELETE FROM weighbridge_calls.calls WHERE worker = dead AND state = 'running';
    PERFORM pg_notify('weighbridge_calls', '');
    RETURN QUERY SELECT handed.request_id FROM gateway.resumed_requests AS handed
                  WHERE handed.worker_id = dead AND handed.request_id = ANY (ids);
END $$
""",
    """
CREATE FUNCTION weighbridge_calls.release(dead uuid) RETURNS void LANGUAGE sql VOLATILE DEFINED
    COMMENTED 'Let the waiting side have what a dead process had kept: it is in the books.' AS $$
    UPDATE weighbridge_calls.calls SET state = 'done', settlement = NULL, records = NULL WHERE worker = dead AND state = 'kept'
$$
""",
)
OF_CALLERS = (
    "FUNCTION weighbridge_calls.submit(jsonb)",
    "FUNCTION weighbridge_calls.ready(uuid[])",
    "FUNCTION weighbridge_calls.take(uuid[])",
    "FUNCTION weighbridge_calls.cancel(uuid[])",
    "PROCEDURE weighbridge_calls.exchange(jsonb, uuid[], jsonb)",
)
OF_WORKERS = (
    "claim(uuid, integer)", "stranded(uuid)", "beat(uuid)", "keep(uuid, uuid, text, bytea)", "tell(uuid, uuid, text)",
    "forget(uuid, uuid[])", "sweep()", "kept(uuid)", "resume(uuid, uuid[], bytea[], bigint[])", "release(uuid)",
)  # fmt: skip


def upgrade() -> None:
    """Make the queue and the role that may use it, and the table that says whom SQL roles stand for."""
    _principals_of_roles()
    _resumed()
    run("CREATE SCHEMA weighbridge_calls")
    run(
        "COMMENT ON SCHEMA weighbridge_calls IS 'Calls to models from SQL, on their way to and from the gateway.'"
    )
    for statement in TABLES:
        run(statement)
    for what, holds in COMMENTS.items():
        run(f"COMMENT ON {what} IS '{holds.replace(chr(39), chr(39) * 2)}'")
    for statement in (*WAITING_SIDE, *ANSWERING_SIDE):
        _routine(statement)
    run("REVOKE ALL ON ALL ROUTINES IN SCHEMA weighbridge_calls FROM PUBLIC")
    run(f"""DO $$ BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{CALLER}') THEN
            CREATE ROLE {CALLER} LOGIN CONNECTION LIMIT 50;
            ALTER ROLE {CALLER} SET default_transaction_isolation = 'read committed';
        END IF;
        IF has_database_privilege(current_database(), 'CONNECT WITH GRANT OPTION') THEN
            EXECUTE format('GRANT CONNECT ON DATABASE %I TO {CALLER}', current_database());
        END IF;
    END $$""")
    run(f"GRANT USAGE ON SCHEMA weighbridge_calls TO {CALLER}, {APPLICATION}")
    for each in OF_CALLERS:
        run(f"GRANT EXECUTE ON {each} TO {CALLER}")
    for each in OF_WORKERS:
        run(f"GRANT EXECUTE ON FUNCTION weighbridge_calls.{each} TO {APPLICATION}")


def downgrade() -> None:
    """Drop the queue; the role is the server's, not this database's."""
    run("DROP SCHEMA weighbridge_calls CASCADE")
    run(f"""DO $$ BEGIN
        IF has_database_privilege(current_database(), 'CONNECT WITH GRANT OPTION') THEN
            EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM {CALLER}', current_database());
        END IF;
    END $$""")
    op.drop_table("sql_roles", schema=SCHEMA)
    op.drop_table("resumed_requests", schema=SCHEMA)


def _routine(statement: str) -> None:
    """Create a function or procedure that says what it does; `DEFINED` stands for the owner's rights, safely used."""
    head, _, rest = statement.partition("COMMENTED '")
    comment, _, body = rest.partition("' AS $$")
    run(f"{head.replace('DEFINED', _DEFINER)} AS $${body}")
    kind, name = head.split()[1], head.split()[2].partition("(")[0]
    run(f"COMMENT ON {kind} {name} IS '{comment}'")


def _resumed() -> None:
    # A drainer that is killed must know on its next start what it had handed on, so this outlives a crash of the server.
    # fmt: off
    op.create_table(
        "resumed_requests",
        sa.Column("request_id", sa.UUID(), nullable=False, comment="The request; its row has the worker that ended it."),
        sa.Column("worker_id", sa.UUID(), nullable=False, comment="The worker that was killed while it ran the request."),
        sa.Column("begun_number", sa.BigInteger(), comment="Number of the request's intent in that worker's spool."),
        sa.Column("resumed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When it was handed on."),
        sa.PrimaryKeyConstraint("request_id", "worker_id", name=op.f("pk_resumed_requests")),
        schema=SCHEMA,
        comment="Runs of calls from SQL that were cut by a kill and begun again by another process.",
    )
    # fmt: on
    run(f"GRANT SELECT ON {SCHEMA}.resumed_requests TO {APPLICATION}")


def _principals_of_roles() -> None:
    # One column a line.
    # fmt: off
    op.create_table(
        "sql_roles",
        sa.Column("id", sa.UUID(), nullable=False, comment="The object, the same in all its versions (UUIDv7)."),
        sa.Column("from_change", sa.BigInteger(), nullable=False, comment="Configuration change that made this version."),
        sa.Column("to_change", sa.BigInteger(), comment="Configuration change that ended it; null while current."),
        sa.Column("valid_from", sa.DateTime(timezone=True), nullable=False, comment="When this version began to hold."),
        sa.Column("valid_to", sa.DateTime(timezone=True), comment="When it ceased to hold; null while current."),
        sa.Column("managed_by", sa.Text(), comment="Name of the declarative file that owns the object, which is read-only elsewhere; null: nobody."),
        sa.Column("login", sa.Text(), nullable=False, comment="Role that the calling database logs in as: says which database it is."),
        sa.Column("sql_role", sa.Text(), nullable=False, comment="Role in that database on whose behalf it calls."),
        sa.Column("principal_id", sa.UUID(), nullable=False, comment="The principal that it stands for."),
        sa.PrimaryKeyConstraint("id", "from_change", name="pk_sql_roles"),
        sa.ForeignKeyConstraint(["from_change"], [f"{SCHEMA}.configuration_change.number"], name="fk_sql_roles_from_change", deferrable=True, initially="DEFERRED"),
        sa.ForeignKeyConstraint(["to_change"], [f"{SCHEMA}.configuration_change.number"], name="fk_sql_roles_to_change", deferrable=True, initially="DEFERRED"),
        sa.CheckConstraint("(to_change IS NULL) = (valid_to IS NULL)", name="ck_sql_roles_ends_once"),
        sa.CheckConstraint("to_change > from_change", name="ck_sql_roles_ends_after_it_began"),
        schema=SCHEMA,
        comment="Which principal a role of a database stands for when it calls a model from SQL.",
    )
    # fmt: on
    current = sa.text("to_change IS NULL")
    op.create_index(
        "uq_sql_roles_current", "sql_roles", ["id"], unique=True, schema=SCHEMA, postgresql_where=current
    )
    op.create_index("ix_sql_roles_versions", "sql_roles", ["from_change", "to_change"], schema=SCHEMA)
    op.create_index(
        "uq_sql_roles_role",
        "sql_roles",
        ["login", "sql_role"],
        unique=True,
        schema=SCHEMA,
        postgresql_where=current,
    )
    run(
        f"CREATE TRIGGER closed_once BEFORE UPDATE ON {SCHEMA}.sql_roles FOR EACH ROW EXECUTE FUNCTION {SCHEMA}.versions_are_closed_once()"
    )
    run(f"GRANT SELECT, INSERT, UPDATE (to_change, valid_to) ON {SCHEMA}.sql_roles TO {APPLICATION}")
