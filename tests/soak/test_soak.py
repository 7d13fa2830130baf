"""Mixed load while workers and the drainer are killed and stores are stopped or frozen, for as long as it is told.

The ledger, the oracle and the clients' transcripts are held against each other after every round, so that a finding
is near its cause.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.embedded.postgres import OWNER, EmbeddedPostgres
from gateway.embedded.redis import EmbeddedRedis
from gateway.store.migrate import upgrade
from tests.faults.killer import POINTS
from tests.faults.reconcile import Discrepancy, report
from tests.faults.upstream import Upstream
from tests.system.deployment import Deployment
from tests.system.kills import Campaign
from tests.system.test_verify import verified

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(0)]

ROUND_KILLS = 10
RATE = 100
"""Calls a second."""
LONG_SECONDS = 60.0
"""The first outage: PostgreSQL is gone, not frozen."""


@pytest.fixture(scope="module")
def workers() -> int:
    return 3


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def postgres(stores_home: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A PostgreSQL that the soak may stop."""
    async with EmbeddedPostgres(stores_home / "soak", durable=False) as server:
        await upgrade(server.url(OWNER))
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def redis(stores_home: Path) -> AsyncIterator[EmbeddedRedis]:
    """A Redis that the soak may stop."""
    async with EmbeddedRedis(stores_home / "soak") as server:
        yield server


@pytest.fixture(scope="module")
def database_url(postgres: EmbeddedPostgres) -> str:
    return postgres.url()


@pytest.fixture(scope="module")
def module_redis(redis: EmbeddedRedis) -> str:
    return redis.url()


async def outage(rng: random.Random, postgres: EmbeddedPostgres, redis: EmbeddedRedis, *, first: bool) -> str:
    """PostgreSQL stopped for a minute at first, later either store stopped or frozen for a few seconds."""
    if first:
        await postgres.stop()
        await asyncio.sleep(LONG_SECONDS)
        await postgres.start()
        return f"PostgreSQL stopped for {LONG_SECONDS:.0f} s"
    store, name = rng.choice([(postgres, "PostgreSQL"), (redis, "Redis")])
    seconds = rng.uniform(1.0, 6.0)
    if rng.random() < 0.5:
        await store.stop()
        await asyncio.sleep(seconds)
        await store.start()
        return f"{name} stopped"
    store.child.send(signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        store.child.send(signal.SIGCONT)
    return f"{name} frozen"


def memory(pids: list[int]) -> int:
    """Resident MiB of the largest."""
    sizes = []
    for pid in pids:
        with open(f"/proc/{pid}/statm") as file:
            sizes.append(int(file.read().split()[1]) * 4096 >> 20)
    return max(sizes)


async def test_nothing_is_missing_or_doubled_however_long_it_goes_on(
    gateway: Deployment,
    upstream: Upstream,
    postgres: EmbeddedPostgres,
    redis: EmbeddedRedis,
    seed: int,
    pytestconfig: pytest.Config,
    capsys: pytest.CaptureFixture[str],
) -> None:
    minutes, wanted = pytestconfig.getoption("--minutes"), pytestconfig.getoption("--kills")
    rng = random.Random(seed)
    began = time.monotonic()
    kills = calls = rounds = 0
    outages: list[str] = []
    found: list[Discrepancy] = []

    def say(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"[{time.monotonic() - began:6.0f} s] {text}\n")
            sys.stdout.flush()

    say(f"seed {seed}")
    while kills < wanted if wanted else time.monotonic() - began < minutes * 60:
        campaign = Campaign(gateway, upstream, seed=rng.randrange(2**31), rate=RATE)
        async with campaign.load():
            while campaign.kills < ROUND_KILLS:
                if rng.random() < 0.4:
                    await campaign.kill_at(rng.choice(POINTS))
                else:
                    await campaign.kill_at_random()
            if rounds % 2:
                outages.append(await outage(rng, postgres, redis, first=not outages))
        await gateway.ready()
        found += await campaign.findings()
        rounds += 1
        kills += campaign.kills
        calls += len(campaign.transcripts)
        say(
            f"{kills} kills, {calls} calls, {len(outages)} outages, largest worker {memory(gateway.workers())} MiB: {report(found)}"
        )
        # What has been judged need not be kept.
        upstream.journal.forget()
        upstream.received.clear()
    assert not found, f"seed {seed}: {report(found)}"
    assert (told := await verified(gateway))["exit"] == 0, told
