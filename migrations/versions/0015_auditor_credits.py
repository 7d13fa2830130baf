"""Credits and later charges, for auditors.

Revision ID: 0015
Revises: 0014
"""

from __future__ import annotations

from migrations.views import make_view, run

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the view."""
    # One column a line.
    # fmt: off
    make_view(
        "billing.credits",
        "Corrections of what was spent: money given back, or charged later. The other views of billing are without them.",
        (
            ("credit_id", "c.id", "The entry."),
            ("entered_time", "c.entered_at", "When it was entered."),
            ("entered_by", "c.entered_by", "Name of who entered it."),
            ("reason", "c.reason", "Why."),
            ("counts_time", "c.counts_at", "Decides every period: the request's admission, else the moment that was given."),
            ("counts_date", "(c.counts_at AT TIME ZONE 'UTC')::date", "Date of counts_time in UTC."),
            ("cost_nano_usd", "c.nano_usd", "Added to what was spent, in 1e-9 dollars: below zero gives money back."),
            ("cost_usd", "(c.nano_usd * 0.000000001)", "The same number in dollars."),
            ("databricks_request_id", "c.request_id", "The request that it corrects; null: none in particular."),
            ("principal_id", "c.principal_id", "Whose spend it corrects."),
            ("principal_name", "p.name", "Its latest name."),
            ("key_id", "c.key_id", "API key whose spend it corrects as well."),
            ("group_id", "c.group_id", "Group whose spend it corrects as well."),
            ("group_name", "g.name", "Its latest name."),
            ("endpoint_id", "c.endpoint_id", "Endpoint on which it was spent; null: no one in particular."),
            ("endpoint_name", "e.name", "Its latest name."),
            ("served_entity_id", "c.entity_id", "Served entity that answered, of a request."),
        ),
        """FROM gateway.credits c
        LEFT JOIN gateway.principal_names p ON p.id = c.principal_id
        LEFT JOIN gateway.group_names g ON g.id = c.group_id
        LEFT JOIN gateway.endpoint_names e ON e.id = c.endpoint_id""",
    )
    # fmt: on


def downgrade() -> None:
    """Drop the view."""
    run("DROP VIEW billing.credits")
