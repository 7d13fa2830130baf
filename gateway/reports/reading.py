"""Run a statement as the auditor: what it may not see it cannot report, and no report outlives its time limit."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from gateway.store.database import connect

AUDITOR = "weighbridge_auditor"
"""The role that reads the views for auditors, and nothing else."""
REPORT_SECONDS = 60.0
_AT_ONCE = 5_000


@dataclass(frozen=True, slots=True)
class Column:
    """A column of an answer."""

    name: str
    kind: str
    """PostgreSQL's name of its type."""


@dataclass(frozen=True, slots=True)
class Answer:
    """All of what a statement found."""

    columns: tuple[Column, ...]
    rows: list[tuple[Any, ...]]


@asynccontextmanager
async def auditor(url: str, seconds: float = REPORT_SECONDS) -> AsyncGenerator[asyncpg.Connection]:
    """A transaction that reads one moment of the books; `url` logs in as the auditor, or as one who may become it."""
    connection = await connect(url, application_name="weighbridge-report", statement_seconds=seconds + 5)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            # Whoever logs in, it is the auditor who reads.
            await connection.execute(f"SET LOCAL ROLE {AUDITOR}")
            await connection.execute(
                f"SET LOCAL statement_timeout = '{seconds:.0f}s'; SET LOCAL timezone = 'UTC'"
            )
            yield connection
    finally:
        await connection.close(timeout=2)


async def ask(connection: asyncpg.Connection, statement: str, *values: Any) -> Answer:
    """Everything that a statement finds."""
    prepared = await connection.prepare(statement)
    columns = _columns(prepared)
    return Answer(columns, [tuple(row) for row in await prepared.fetch(*values)])


async def in_parts(
    connection: asyncpg.Connection, statement: str, *values: Any
) -> AsyncGenerator[tuple[tuple[Column, ...], Sequence[tuple[Any, ...]]]]:
    """What a statement finds, some thousand rows at a time; first its columns, with no row."""
    prepared = await connection.prepare(statement)
    columns = _columns(prepared)
    yield columns, ()
    waiting = await prepared.cursor(*values)
    while rows := await waiting.fetch(_AT_ONCE):
        yield columns, [tuple(row) for row in rows]


def _columns(prepared: Any) -> tuple[Column, ...]:
    return tuple(Column(each.name, each.type.name) for each in prepared.get_attributes())
