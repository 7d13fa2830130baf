"""The ledger's sums from which lost counters are rebuilt: whole hours from the roll-up, their edges from the rows.

All answers are of one snapshot, the spools' positions among them, which change in one transaction with the rows: so each
worker can be told which of its settlements the sums have.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg

from gateway.counters.rebuild import LedgerAway, LedgerSums, LedgerView, Question, Sum
from gateway.store.database import FAILED, connect
from gateway.store.uncounted import SUBJECTS, uncounted_by
from policies.budgets import Budget
from policies.limits import Metric, ScopeKind
from policies.windows import edges

_LOCK = 0x57_42_45_50  # "WBEP"
_HOUR_MS = 3_600_000
_INPUT, _OUTPUT = "fresh_input + cache_read + cache_write", "output + reasoning"
_AMOUNTS = {
    Metric.REQUESTS: "{requests}",
    Metric.INPUT_TOKENS: _INPUT,
    Metric.OUTPUT_TOKENS: _OUTPUT,
    Metric.TOTAL_TOKENS: f"{_INPUT} + {_OUTPUT}",
    Metric.MONEY: "cost_nano_usd",
}

_BOUNDS = "SET LOCAL lock_timeout = '25s'; SET LOCAL statement_timeout = '25s'"
_DEFAULTS = frozenset({ScopeKind.USER_DEFAULT, ScopeKind.GROUP_DEFAULT})
# For longer than anybody looks for what was spent before a change.
_CHANGED = (
    "SELECT coalesce(array_agg(DISTINCT id::text) FILTER (WHERE valid_from > now() - interval '15 minutes'), '{}'),"
    " coalesce(bool_or(valid_to > now() - interval '15 minutes'), false) FROM gateway.budgets"
)


class PostgresSums:
    """The port LedgerSums, on one connection held while the counters are rebuilt."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: asyncpg.Connection | None = None

    @asynccontextmanager
    async def alone(self) -> AsyncGenerator[LedgerSums]:
        """One rebuild at a time; the lock ends with its transaction, so that a pooler may stand between."""
        async with self._begun(f"BEGIN; {_BOUNDS}", "SELECT pg_advisory_xact_lock($1)", _LOCK) as connection:
            held = PostgresSums(self._url)
            held._connection = connection
            yield held

    async def drained(self, until_ms: int, seconds: float) -> bool:
        """Ask the spools' positions until none is behind."""
        deadline = time.monotonic() + seconds
        statement = (
            "SELECT NOT EXISTS (SELECT FROM gateway.spool_positions WHERE closed_at IS NULL"
            " AND coalesce(read_until, complete_until) < $1 AND updated_at > now() - interval '1 day')"
        )
        while True:
            rows = await _fetch(self._connection, statement, _instant(until_ms))
            if rows[0][0]:
                return True
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(0.1)

    @asynccontextmanager
    async def view(self) -> AsyncGenerator[LedgerView]:
        """On a connection of its own: the one with the lock is older than its waiting for it."""
        async with self._begun(f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {_BOUNDS}") as connection:
            yield PostgresView(connection)

    @asynccontextmanager
    async def _begun(self, *first: Any) -> AsyncGenerator[asyncpg.Connection]:
        connection: asyncpg.Connection | None = None
        try:
            connection = await connect(self._url, application_name="weighbridge-rebuild")
            await connection.execute(first[0])
            if first[1:]:
                await connection.execute(*first[1:])
        except FAILED as error:
            if connection is not None:
                connection.terminate()
            raise LedgerAway(str(error) or type(error).__name__) from error
        try:
            yield connection
        finally:
            connection.terminate()


class PostgresView:
    """The port LedgerView, in one transaction."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def cuts(self) -> Mapping[str, int]:
        """Of the spools that are read, and of those that were a while ago."""
        statement = (
            "SELECT spool_id::text, ended_number FROM gateway.spool_positions"
            " WHERE closed_at IS NULL OR closed_at > now() - interval '1 day'"
        )
        return {row[0]: row[1] for row in await _fetch(self._connection, statement)}

    async def earlier(self, budgets: Iterable[Budget], now_ms: int) -> Mapping[str, Mapping[str, int]]:
        """By the charges that rows tell; of budgets that may still be looked at for earlier spend."""
        ((begun, ended),) = await _fetch(self._connection, _CHANGED)
        found: dict[str, Mapping[str, int]] = {}
        for budget in budgets:
            if budget.id in begun or (ended and budget.scope in _DEFAULTS):
                arguments: list[object] = []
                statement = uncounted_by(budget, edges(budget.period, now_ms), _placing(arguments))
                rows = await _fetch(self._connection, statement, *arguments)
                found[budget.id] = {row[0]: row[1] for row in rows}
        return found

    async def ask(self, question: Question) -> Sequence[Sum]:
        """One statement for one limit or budget."""
        subject = SUBJECTS[question.scope]
        amount = _AMOUNTS[question.metric]
        of_row, of_hour = amount.format(requests="1"), amount.format(requests="requests")
        arguments: list[object] = []

        given = _placing(arguments)
        where = f"{subject} <> ''" if question.scope is not ScopeKind.DEPLOYMENT else "true"
        if question.subject_id is not None:
            where += f" AND {subject} = {given(question.subject_id)}"
        if question.endpoint_id is not None:
            where += f" AND endpoint_id = {given(question.endpoint_id)}"
        since = given(_instant(question.since_ms))
        # Rows lie in weeks by their id, made by the worker's clock: a day's slack still leaves out the older weeks.
        oldest = f"greatest({since}::timestamptz - interval '1 day', to_timestamp(0))"
        rows = f"gateway.requests WHERE request_id >= gateway.uuid7_floor({oldest}) AND {where}"
        if question.bucket_of is not None:
            width = given(question.bucket_of)
            # The columns' names come from the tables above, every value is a parameter.
            statement = (
                f"SELECT {subject}, floor(extract(epoch FROM admitted_at) * 1000)::bigint * 60 / {width}::bigint,"  # noqa: S608
                f" sum({of_row})::bigint FROM {rows}"
                f" AND admitted_at >= {since} GROUP BY 1, 2"
            )
            return [Sum(*row) for row in await _fetch(self._connection, statement, *arguments)]
        whole = given(_instant(-(-question.since_ms // _HOUR_MS) * _HOUR_MS))
        credited = ""
        if question.metric is Metric.MONEY:
            credited = (
                f" UNION ALL SELECT {subject}, sum(nano_usd), sum(nano_usd) FROM gateway.credits"  # noqa: S608 - as above
                f" WHERE {where} AND counts_at >= {since} GROUP BY 1"
            )
        statement = (
            "SELECT subject, 0, sum(amount)::bigint, sum(credited)::bigint FROM ("  # noqa: S608 - as above
            f" SELECT {subject} AS subject, sum({of_hour}) AS amount, 0 AS credited FROM gateway.usage_hour"
            f" WHERE {where} AND period >= {whole} GROUP BY 1"
            f" UNION ALL SELECT {subject}, sum({of_row}), 0 FROM {rows}"
            f" AND admitted_at >= {since} AND admitted_at < {whole} GROUP BY 1"
            f"{credited}) AS parts GROUP BY 1 HAVING sum(amount) <> 0 OR sum(credited) <> 0"
        )
        return [Sum(*row) for row in await _fetch(self._connection, statement, *arguments)]


def _placing(arguments: list[object]) -> Callable[[object], str]:
    """Adds a value to the arguments and gives the parameter that stands for it."""

    def given(value: object) -> str:
        arguments.append(value)
        return f"${len(arguments)}"

    return given


async def _fetch(
    connection: asyncpg.Connection | None, statement: str, *arguments: object
) -> list[asyncpg.Record]:
    if connection is None:
        raise LedgerAway("ask within alone()")
    try:
        return await connection.fetch(statement, *arguments)
    except FAILED as error:
        raise LedgerAway(str(error) or type(error).__name__) from error


def _instant(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
