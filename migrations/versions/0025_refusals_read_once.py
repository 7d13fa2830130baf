"""What is shown of a refusal is read out of its content by a trigger, which parses that once, not once a column.

Nine generated columns cost a flood's rows three quarters of their time. As before, nobody can write what is shown: it
follows from the content, whoever adds or edits the row.

Revision ID: 0025
Revises: 0024
"""

from __future__ import annotations

from migrations.views import run

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

READ = ("at", "span_ms", "count", "plane", "code", "limit_id", "principal_id", "asked", "address")

READ_REFUSAL = """
CREATE OR REPLACE FUNCTION gateway.read_refusal() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    told jsonb := NEW.content::jsonb;
BEGIN
    NEW.at := to_timestamp((told ->> 'at_ms')::bigint / 1000.0::double precision);
    NEW.span_ms := (told ->> 'span_ms')::bigint;
    NEW.count := (told ->> 'count')::bigint;
    NEW.plane := told ->> 'plane';
    NEW.code := told ->> 'code';
    NEW.limit_id := told ->> 'limit_id';
    NEW.principal_id := told ->> 'principal_id';
    NEW.asked := told ->> 'asked';
    NEW.address := told ->> 'address';
    RETURN NEW;
END
$body$
"""


def upgrade() -> None:
    """Let the trigger read the columns; rows that are there keep what they show."""
    run(READ_REFUSAL)
    run(
        "CREATE OR REPLACE TRIGGER shown BEFORE INSERT OR UPDATE ON gateway.audit_refusals"
        " FOR EACH ROW EXECUTE FUNCTION gateway.read_refusal()"
    )
    for column in READ:
        run(f"ALTER TABLE gateway.audit_refusals ALTER COLUMN {column} DROP EXPRESSION IF EXISTS")


def downgrade() -> None:
    """Leave it: the version before writes and reads the same columns, and the trigger goes with the table."""
