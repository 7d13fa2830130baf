"""Two workers and a drainer on real stores, with the scriptable providers behind them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.embedded.redis import EmbeddedRedis
from tests.providers.stub import Providers
from tests.system.deployment import Deployment


@pytest.fixture(scope="module")
def homes() -> Iterator[Path]:
    """A short path: sockets live below it."""
    home = Path(tempfile.mkdtemp(prefix="wb-prov-"))
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stub() -> AsyncIterator[Providers]:
    """The providers."""
    async with Providers() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    homes: Path, database_url: str, redis_server: EmbeddedRedis, stub: Providers
) -> AsyncIterator[Deployment]:
    """A gateway without an engine of its own; the loopback is listed for providers."""
    made = Deployment(
        home=homes / "gateway",
        database_url=database_url,
        redis_url=redis_server.url(),
        engine_url=None,
        workers=2,
        awaits="/healthz",
        environment={"WEIGHBRIDGE_CREDENTIAL_OF_TESTS": "key-one"},
    )
    async with made:
        yield made
