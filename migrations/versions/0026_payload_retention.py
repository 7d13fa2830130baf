"""Kept calls of one endpoint may go earlier than their days: found by an index, taken away a few at a time.

Revision ID: 0026
Revises: 0025
"""

from __future__ import annotations

from alembic import op

from migrations.views import run

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

SCHEMA = "gateway"
APPLICATION = "weighbridge_app"

FORGET = """
CREATE FUNCTION gateway.forget_payloads(endpoint text, before timestamptz, at_most int) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone int;
BEGIN
    DELETE FROM gateway.payloads WHERE request_id IN (
        SELECT request_id FROM gateway.payloads
        WHERE endpoint_id = endpoint AND request_id < gateway.uuid7_floor(before)
        LIMIT at_most FOR UPDATE SKIP LOCKED
    );
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END $$
"""


def upgrade() -> None:
    """Make the index and the function; the application may still read nothing."""
    op.create_index("ix_payloads_endpoint", "payloads", ["endpoint_id", "request_id"], schema=SCHEMA)
    run(FORGET)
    function = f"{SCHEMA}.forget_payloads(text, timestamptz, int)"
    run(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
    run(f"GRANT EXECUTE ON FUNCTION {function} TO {APPLICATION}")


def downgrade() -> None:
    """Drop them; days still go whole."""
    run(f"DROP FUNCTION {SCHEMA}.forget_payloads(text, timestamptz, int)")
    op.drop_index("ix_payloads_endpoint", "payloads", schema=SCHEMA)
