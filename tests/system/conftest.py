"""A deployment of four workers for a module, with the oracle behind it; and one that a test makes for itself."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.embedded.redis import EmbeddedRedis
from tests.faults.upstream import Upstream
from tests.system.deployment import Deployment, Person


@pytest.fixture(scope="module")
def homes() -> Iterator[Path]:
    """A short path for the homes of deployments: sockets live below it."""
    home = Path(tempfile.mkdtemp(prefix="wb-sys-"))
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def module_redis(redis_server: EmbeddedRedis) -> str:
    """The session's Redis, emptied for this module."""
    from redis import Redis

    with Redis.from_url(redis_server.url()) as client:
        client.flushall()
    return redis_server.url()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[Upstream]:
    """The oracle."""
    async with Upstream() as server:
        yield server


@pytest.fixture(scope="module")
def people() -> dict[str, Person]:
    """Users that a module wants besides `bulk`; a module may define its own."""
    return {}


@pytest.fixture(scope="module")
def workers() -> int:
    """How many workers a module's gateway has; a module may define its own."""
    return 4


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    homes: Path,
    database_url: str,
    module_redis: str,
    upstream: Upstream,
    people: dict[str, Person],
    workers: int,
) -> AsyncIterator[Deployment]:
    """Workers and a drainer."""
    made = Deployment(
        home=homes / "gateway",
        database_url=database_url,
        redis_url=module_redis,
        engine_url=upstream.url,
        people=people,
        workers=workers,
    )
    async with made:
        yield made


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A fresh seed, in the report of a failing test; WEIGHBRIDGE_TEST_SEED repeats a run."""
    import os

    chosen = int(os.environ.get("WEIGHBRIDGE_TEST_SEED") or random.SystemRandom().randrange(2**31))
    print(f"seed {chosen} (WEIGHBRIDGE_TEST_SEED={chosen} repeats it)")
    return chosen
