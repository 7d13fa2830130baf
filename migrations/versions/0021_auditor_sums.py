"""Credits in auditors' sums of spend, and which requests were batch work.

Revision ID: 0021
Revises: 0020
"""

from __future__ import annotations

from migrations.views import ViewColumn, append_columns, make_view, quoted, remove_columns, run

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_BATCH: ViewColumn = (
    "batch",
    "r.batch",
    "Whether it was batch work, which gives way where limits are shared.",
)
_ALONE = "Corrections of what was spent: money given back, or charged later. The other views of billing are without them."
_SUMMED = "Corrections of what was spent: money given back, or charged later. billing.spend, billing.group_costs and billing.daily_group_usage have their sums beside the spend; the other views of billing are without them."


def upgrade() -> None:
    """Make the views of spend again, with credits."""
    append_columns("serving.endpoint_usage", (_BATCH,))
    _sums(credited=True)
    run(f"COMMENT ON VIEW billing.credits IS {quoted(_SUMMED)}")


def downgrade() -> None:
    """Make them without."""
    run(f"COMMENT ON VIEW billing.credits IS {quoted(_ALONE)}")
    _sums(credited=False)
    remove_columns("serving.endpoint_usage", (_BATCH,))


# One column a line.
# fmt: off
def _sums(*, credited: bool) -> None:
    # Where credits count for somebody who used nothing, the row has no requests.
    days, beside = "gateway.usage_day", ""
    more: tuple[ViewColumn, ...] = ()
    if credited:
        columns = "principal_id, group_id, endpoint_id, requests, prompt_tokens, completion_tokens, fresh_input, cache_read, cache_write, output, reasoning, cost_nano_usd"
        days = f"""(
                SELECT period, {columns}, 0::bigint AS credit FROM gateway.usage_day
                UNION ALL
                SELECT date_trunc('day', counts_at, 'UTC'), principal_id, coalesce(group_id, ''), endpoint_id, 0, 0, 0, 0, 0, 0, 0, 0, 0, nano_usd
                FROM gateway.credits
            ) d"""  # noqa: S608 - of own names
        beside = ", sum(credit) AS credit"
        more = (
            ("credits_nano_usd", "u.credit", "Credits and later charges that count here, in 1e-9 dollars: below zero gives money back."),
            ("credits_usd", "(u.credit * 0.000000001)", "The same number in dollars."),
            ("net_nano_usd", "u.cost + u.credit", "Cost and credits together, in 1e-9 dollars."),
            ("net_usd", "((u.cost + u.credit) * 0.000000001)", "The same number in dollars."),
        )
    money: tuple[ViewColumn, ...] = (
        ("cost_nano_usd", "u.cost", "What callers bear, in 1e-9 dollars, exact."),
        ("cost_usd", "(u.cost * 0.000000001)", "What callers bear, in dollars: the same number."),
        *more,
    )
    group: tuple[ViewColumn, ...] = (
        ("group_id", "nullif(u.group_id, '')", "Group that was charged; null for none."),
        ("group_name", "g.name", "Its latest name."),
    )
    day: tuple[ViewColumn, ...] = (
        ("usage_date", "(u.period AT TIME ZONE 'UTC')::date", "Day, UTC."),
        ("period", "u.period", "Start of the day."),
    )
    sums = f"sum(requests) AS requests, sum(cost_nano_usd) AS cost{beside}"
    tokens = "sum(fresh_input + cache_read + cache_write + output + reasoning) AS tokens"
    for view in ("spend", "group_costs", "daily_group_usage"):
        run(f"DROP VIEW billing.{view}")
    make_view(
        "billing.spend",
        "What each principal spent on each endpoint, by day and charged group. Filter by period: it is indexed.",
        (
            *day,
            ("principal_id", "u.principal_id", "Who asked."),
            ("principal_name", "p.name", "Its latest name."),
            *group,
            ("endpoint_id", "u.endpoint_id", "Endpoint; null: credits for no one in particular." if credited else "Endpoint."),
            ("endpoint_name", "e.name", "Its latest name."),
            ("requests", "u.requests", "Number of requests."),
            ("tokens", "u.tokens", "Tokens of all classes."),
            *money,
        ),
        f"""FROM (
            SELECT period, principal_id, group_id, endpoint_id, {sums}, {tokens}
            FROM {days} GROUP BY period, principal_id, group_id, endpoint_id
        ) u
        LEFT JOIN gateway.principal_names p ON p.id = u.principal_id
        LEFT JOIN gateway.group_names g ON g.id = u.group_id
        LEFT JOIN gateway.endpoint_names e ON e.id = u.endpoint_id""",  # noqa: S608 - of own names
    )
    make_view(
        "billing.group_costs",
        "What each charged group cost, by month. A null group: requests that no group's limit was charged for.",
        (
            ("month", "u.month", "First day of the month, UTC."),
            *group,
            ("requests", "u.requests", "Number of requests."),
            ("tokens", "u.tokens", "Tokens of all classes."),
            *money,
        ),
        f"""FROM (
            SELECT date_trunc('month', period AT TIME ZONE 'UTC')::date AS month, group_id, {sums}, {tokens}
            FROM {days} GROUP BY 1, 2
        ) u LEFT JOIN gateway.group_names g ON g.id = u.group_id""",  # noqa: S608 - of own names
    )
    make_view(
        "billing.daily_group_usage",
        "What each charged group used, by day. Filter by period: it is indexed.",
        (
            *day,
            *group,
            ("requests", "u.requests", "Number of requests."),
            ("input_tokens", "u.input", "Input tokens of all classes."),
            ("output_tokens", "u.output", "Output tokens, reasoning included."),
            *money,
        ),
        f"""FROM (
            SELECT period, group_id, {sums}, sum(prompt_tokens) AS input, sum(completion_tokens) AS output
            FROM {days} GROUP BY period, group_id
        ) u LEFT JOIN gateway.group_names g ON g.id = u.group_id""",  # noqa: S608 - of own names
    )
# fmt: on
