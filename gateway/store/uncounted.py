"""What a budget's subjects are called in the ledger, and the one statement that both of PostgreSQL's ways in execute.

Without SQLAlchemy: a worker asks it where lost counters are rebuilt.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

from policies.budgets import Budget
from policies.limits import ScopeKind

# Keys of one line count together; a key that is no part of one is not in that index at all.
LINE_OF_KEY = (
    "coalesce((SELECT line.counts_as::text FROM gateway.api_keys AS line WHERE line.id::text = key_id"
    " AND line.to_change IS NULL AND line.counts_as IS NOT NULL), key_id)"
)
SUBJECTS = {
    ScopeKind.ENDPOINT: "endpoint_id",
    ScopeKind.USER: "principal_id",
    ScopeKind.USER_DEFAULT: "principal_id",
    ScopeKind.SERVICE_PRINCIPAL: "principal_id",
    ScopeKind.GROUP: "group_id",
    ScopeKind.GROUP_DEFAULT: "group_id",
    ScopeKind.KEY: LINE_OF_KEY,
    ScopeKind.DEPLOYMENT: "''",
}


def uncounted_by(budget: Budget, period: tuple[int, int], given: Callable[[object], str]) -> str:
    """Settled spend in a period of requests that were admitted without this budget: before it was made or in force.

    What was admitted while Redis was away is left out: workers report that themselves. `given` names each of the values
    in the way of whoever executes it.
    """
    column = SUBJECTS[budget.scope]
    where = "true" if budget.scope is ScopeKind.DEPLOYMENT else f"{column} <> ''"
    if budget.subject_id is not None:
        where += f" AND {column} = {given(budget.subject_id)}"
    if budget.endpoint_id is not None:
        where += f" AND endpoint_id = {given(budget.endpoint_id)}"
    start, end, charged = (
        given(instant(period[0])),
        given(instant(period[1])),
        given(json.dumps([{"limit": budget.id}])),
    )
    return (
        f"SELECT {column} AS subject, sum(cost_nano_usd)::bigint FROM gateway.requests WHERE {where}"  # noqa: S608 - own names
        f" AND request_id >= gateway.uuid7_floor(greatest(CAST({start} AS timestamptz) - interval '1 day', to_timestamp(0)))"
        f" AND admitted_at >= {start} AND admitted_at < {end} AND degraded IS NULL AND cost_nano_usd > 0"
        f" AND NOT charges @> CAST({charged} AS jsonb) GROUP BY 1 ORDER BY 1"
    )


def instant(ms: int) -> datetime:
    """The moment that many milliseconds after 1970."""
    return datetime.fromtimestamp(ms / 1000, UTC)
