"""The ledger's sums from which lost counters are rebuilt: whole hours from the roll-up, their edges from the rows.

Each answer is one statement, so that what is posted meanwhile is in all of it or in none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import asyncpg

from gateway.counters.rebuild import LedgerAway, LedgerSums, Question, Sum
from gateway.store.database import FAILED, connect
from gateway.store.spend import SUBJECTS
from policies.limits import Metric, ScopeKind

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


class PostgresSums:
    """The port LedgerSums, on one connection held while the counters are rebuilt."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: asyncpg.Connection | None = None

    @asynccontextmanager
    async def alone(self) -> AsyncGenerator[LedgerSums]:
        """One rebuild at a time; the lock ends with its transaction, so that a pooler may stand between."""
        connection: asyncpg.Connection | None = None
        try:
            connection = await connect(self._url, application_name="weighbridge-rebuild")
            await connection.execute(
                "BEGIN; SET LOCAL lock_timeout = '25s'; SET LOCAL statement_timeout = '25s'"
            )
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        except FAILED as error:
            if connection is not None:
                connection.terminate()
            raise LedgerAway(str(error) or type(error).__name__) from error
        try:
            held = PostgresSums(self._url)
            held._connection = connection
            yield held
        finally:
            connection.terminate()

    async def drained(self, until_ms: int, seconds: float) -> bool:
        """Ask the spools' positions until none is behind."""
        deadline = time.monotonic() + seconds
        statement = (
            "SELECT NOT EXISTS (SELECT FROM gateway.spool_positions"
            " WHERE closed_at IS NULL AND complete_until < $1 AND updated_at > now() - interval '1 day')"
        )
        while True:
            rows = await self._fetch(statement, _instant(until_ms))
            if rows[0][0]:
                return True
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(0.2)

    async def ask(self, question: Question) -> Sequence[Sum]:
        """One statement for one limit or budget."""
        subject = SUBJECTS[question.scope]
        amount = _AMOUNTS[question.metric]
        of_row, of_hour = amount.format(requests="1"), amount.format(requests="requests")
        arguments: list[object] = []

        def given(value: object) -> str:
            arguments.append(value)
            return f"${len(arguments)}"

        where = f"{subject} <> ''" if question.scope is not ScopeKind.DEPLOYMENT else "true"
        if question.subject_id is not None:
            where += f" AND {subject} = {given(question.subject_id)}"
        if question.endpoint_id is not None:
            where += f" AND endpoint_id = {given(question.endpoint_id)}"
        until = given(_instant(question.until_ms))
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
                f" AND admitted_at >= {since} AND ended_at <= {until} GROUP BY 1, 2"
            )
            return [Sum(*row) for row in await self._fetch(statement, *arguments)]
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
            f" AND admitted_at >= {since} AND admitted_at < {whole} AND ended_at <= {until} GROUP BY 1"
            # The roll-up knows no end of a request: what ended after the cut is taken out again.
            f" UNION ALL SELECT {subject}, -sum({of_row}), 0 FROM {rows}"
            f" AND admitted_at >= {whole} AND ended_at > {until} GROUP BY 1"
            f"{credited}) AS parts GROUP BY 1 HAVING sum(amount) <> 0 OR sum(credited) <> 0"
        )
        return [Sum(*row) for row in await self._fetch(statement, *arguments)]

    async def _fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        if self._connection is None:
            raise LedgerAway("ask within alone()")
        try:
            return await self._connection.fetch(statement, *arguments)
        except FAILED as error:
            raise LedgerAway(str(error) or type(error).__name__) from error


def _instant(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
