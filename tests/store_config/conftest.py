"""A configuration in a real database, changed as administrators change it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.security.keys import Peppers
from gateway.store import database
from gateway.store.changes import Actor, Configuration

ROOT = Actor(None, "tests")


@pytest.fixture
def peppers() -> Peppers:
    return Peppers({1: b"p" * 32})


@pytest.fixture
async def configuration(database_url: str) -> AsyncIterator[Configuration]:
    engine = database.engine(database_url, size=4)
    yield Configuration(engine, b"c" * 32)
    await engine.dispose()


@pytest.fixture
def root() -> Actor:
    return ROOT
