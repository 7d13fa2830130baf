"""What was really spent of a budget, from the ledger: whole hours from the roll-up, the edges from the rows.

Each answer is one statement, so that what is posted meanwhile is in all of it or in none. Periods are decided by the admission.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.store.uncounted import SUBJECTS, instant, uncounted_by
from policies.budgets import Budget
from policies.limits import ScopeKind
from policies.windows import FOREVER_MS

_HOUR_MS = 3_600_000


class Spend(NamedTuple):
    """What one subject spent."""

    subject: str
    """Id of the principal, group, key or endpoint; empty for the deployment."""
    nano_usd: int


async def spent(
    connection: AsyncConnection,
    budget: Budget,
    period: tuple[int, int],
    *,
    subject: str | None = None,
    after: str | None = None,
    size: int | None = None,
    at_least: int | None = None,
) -> list[Spend]:
    """Settled spend of a budget in a period (start and end in ms), subject by subject in order of their ids.

    Credits are part of it, so that it may be below zero.
    `subject` asks for one, `after` and `size` for a page, `at_least` for those who spent so much.
    """
    column = SUBJECTS[budget.scope]
    start, end = period
    given: dict[str, object] = {
        "start": instant(start),
        "end": instant(end),
        "first": instant(min(-(-start // _HOUR_MS) * _HOUR_MS, end)),
        "last": instant(end // _HOUR_MS * _HOUR_MS),
        "at_least": at_least,
        "size": size,
    }
    where = "true" if budget.scope is ScopeKind.DEPLOYMENT else f"{column} <> ''"
    wanted = budget.subject_id if budget.subject_id is not None else subject
    if wanted is not None and budget.scope is not ScopeKind.DEPLOYMENT:
        where += f" AND {column} = :subject"
        given["subject"] = wanted
    if after is not None:
        where += f" AND {column} > :after"
        given["after"] = after
    if budget.endpoint_id is not None:
        where += " AND endpoint_id = :endpoint"
        given["endpoint"] = budget.endpoint_id
    # Rows lie in weeks by their id, made by the worker's clock: a day's slack still leaves out the older weeks.
    rows = (
        f"SELECT {column} AS subject, cost_nano_usd AS amount FROM gateway.requests WHERE {where}"  # noqa: S608
        " AND request_id >= gateway.uuid7_floor(greatest(CAST(:{0} AS timestamptz) - interval '1 day', to_timestamp(0)))"
        " AND admitted_at >= :{0} AND admitted_at < :{1}"
    )
    hours = (
        f"SELECT {column} AS subject, cost_nano_usd AS amount FROM gateway.usage_hour"  # noqa: S608 - as above
        f" WHERE {where} AND period >= :first AND period < :last"
    )
    entered = (
        f"SELECT {column} AS subject, nano_usd AS amount FROM gateway.credits WHERE {where}"  # noqa: S608 - as above
        " AND counts_at >= :start AND counts_at < :end"
    )
    parts = [hours, entered]
    if start % _HOUR_MS:
        parts.append(rows.format("start", "first"))
    if end % _HOUR_MS and end < FOREVER_MS and end // _HOUR_MS * _HOUR_MS >= start:
        parts.append(rows.format("last", "end"))
    statement = (
        f"SELECT subject, sum(amount)::bigint FROM ({' UNION ALL '.join(parts)}) AS parts"  # noqa: S608 - own names
        " GROUP BY subject HAVING sum(amount) >= coalesce(CAST(:at_least AS bigint), sum(amount))"
        " ORDER BY subject LIMIT CAST(:size AS bigint)"
    )
    return [Spend(*row) for row in await connection.execute(text(statement), given)]


async def uncounted(connection: AsyncConnection, budget: Budget, period: tuple[int, int]) -> list[Spend]:
    """Settled spend in a period of requests that were admitted without this budget: before it was made or in force.

    What was admitted while Redis was away is left out: workers report that themselves.
    """
    given: dict[str, object] = {}

    def named(value: object) -> str:
        given[f"p{len(given)}"] = value
        return f":p{len(given) - 1}"

    statement = uncounted_by(budget, period, named)
    return [Spend(*row) for row in await connection.execute(text(statement), given)]


async def credited(connection: AsyncConnection, budget: Budget, period: tuple[int, int]) -> list[Spend]:
    """What credits and charges of a period add to the spend of a budget, subject by subject."""
    column = SUBJECTS[budget.scope]
    given: dict[str, object] = {"start": instant(period[0]), "end": instant(period[1])}
    where = "true" if budget.scope is ScopeKind.DEPLOYMENT else f"{column} <> ''"
    if budget.subject_id is not None:
        where += f" AND {column} = :subject"
        given["subject"] = budget.subject_id
    if budget.endpoint_id is not None:
        where += " AND endpoint_id = :endpoint"
        given["endpoint"] = budget.endpoint_id
    statement = (
        f"SELECT {column} AS subject, sum(nano_usd)::bigint FROM gateway.credits WHERE {where}"  # noqa: S608 - own names
        " AND counts_at >= :start AND counts_at < :end GROUP BY 1 ORDER BY 1"
    )
    return [Spend(*row) for row in await connection.execute(text(statement), given)]
