"""The auditor's own connection to a migrated database, and the owner's beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import asyncpg
import pytest

from gateway.store import database
from gateway.store.changes import Actor, Configuration

if TYPE_CHECKING:
    from gateway.embedded.postgres import EmbeddedPostgres

ROOT = Actor(None, "tests")


@pytest.fixture(scope="module")
def auditor_url(postgres_server: EmbeddedPostgres, database_name: str) -> str:
    return postgres_server.url("weighbridge_auditor", database_name)


@pytest.fixture
async def auditor(auditor_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(auditor_url)
    yield connection
    await connection.close()


@pytest.fixture
async def owner(owner_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(owner_url)
    yield connection
    await connection.close()


@pytest.fixture
async def configuration(database_url: str) -> AsyncIterator[Configuration]:
    engine = database.engine(database_url, size=4)
    yield Configuration(engine, b"c" * 32)
    await engine.dispose()
