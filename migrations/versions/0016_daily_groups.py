"""Usage by day and charged group, summed before any name is looked up: what the month per group is read from.

Revision ID: 0016
Revises: 0015
"""

from __future__ import annotations

from migrations.views import make_view, run

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the view."""
    # One column a line.
    # fmt: off
    make_view(
        "billing.daily_group_usage",
        "What each charged group used, by day. Filter by period: it is indexed.",
        (
            ("usage_date", "(u.period AT TIME ZONE 'UTC')::date", "Day, UTC."),
            ("period", "u.period", "Start of the day."),
            ("group_id", "nullif(u.group_id, '')", "Group that was charged; null for none."),
            ("group_name", "g.name", "Its latest name."),
            ("requests", "u.requests", "Number of requests."),
            ("input_tokens", "u.input", "Input tokens of all classes."),
            ("output_tokens", "u.output", "Output tokens, reasoning included."),
            ("cost_nano_usd", "u.cost", "What callers bear, in 1e-9 dollars, exact."),
            ("cost_usd", "(u.cost * 0.000000001)", "What callers bear, in dollars: the same number."),
        ),
        """FROM (
            SELECT period, group_id, sum(requests) AS requests, sum(prompt_tokens) AS input, sum(completion_tokens) AS output,
                   sum(cost_nano_usd) AS cost
            FROM gateway.usage_day GROUP BY period, group_id
        ) u LEFT JOIN gateway.group_names g ON g.id = u.group_id""",
    )
    # fmt: on


def downgrade() -> None:
    """Drop the view."""
    run("DROP VIEW billing.daily_group_usage")
