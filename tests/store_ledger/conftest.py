"""A drainer on a real PostgreSQL, turned by hand so that nothing is left to chance."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from gateway.spool.drainer import Drainer
from gateway.spool.writer import SpoolWriter
from gateway.store.ledger import PostgresBooks


@pytest.fixture
async def books(database_url: str) -> AsyncIterator[PostgresBooks]:
    made = PostgresBooks(database_url, host="here")
    yield made
    await made.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def drainer(tmp_path: Path, books: PostgresBooks) -> AsyncIterator[Drainer]:
    made = Drainer(tmp_path, books)
    yield made
    made.close()


@pytest.fixture
def spool(tmp_path: Path) -> SpoolWriter:
    """A worker's spool; a test that wants the worker dead closes it."""
    return SpoolWriter(tmp_path)
