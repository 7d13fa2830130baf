"""Two replicas of the engine under the product's own supervision, killed again and again under load."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

import engines.local.supervise as supervision
from engines.local.launch import EngineSpec
from tests.faults.engine import records_below, stand_in
from tests.faults.load import Mix
from tests.faults.reconcile import reconcile, report
from tests.system.deployment import BULK, ENDPOINT, Deployment
from tests.system.engine_kills import Watched, faults_of, kill_under_load

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

KILLS = 5
"""`make soak ARGS="-k engine_kills"` kills the real engine twenty times."""
# Several attempts of one call may be killed, and each may have emitted what no one read: few tokens a call.
MIX = Mix(model=ENDPOINT, tokens=(1, 30), delays_ms=(0, 5, 8))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replicas(homes: Path) -> AsyncIterator[tuple[list[EngineSpec], Watched]]:
    """Two engines that are kept up; pauses between starts are tried elsewhere."""
    patch = pytest.MonkeyPatch()
    patch.setattr(supervision, "STEADY_SECONDS", 0.0)
    specs = [stand_in(homes, number) for number in range(2)]
    watched = Watched()
    running = asyncio.create_task(supervision.keep_all(specs, watched))
    await watched.until(lambda: len(watched.ready()) == 2, 60)
    yield specs, watched
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    patch.undo()


async def test_no_call_hangs_each_says_what_happened_the_engine_is_back_and_the_books_balance(
    homes: Path,
    database_url: str,
    module_redis: str,
    replicas: tuple[list[EngineSpec], Watched],
    seed: int,
) -> None:
    specs, watched = replicas
    gateway = Deployment(
        home=homes / "gateway",
        database_url=database_url,
        redis_url=module_redis,
        engine_url=",".join(each.url for each in specs),
        people={"bulk": BULK},
        workers=2,
    )
    async with gateway:
        happened = await kill_under_load(
            gateway, watched, specs, kills=KILLS, mix=MIX, seed=seed, rate=25, back_seconds=60
        )
        print(happened.told())
        assert len(happened.away) == KILLS
        assert happened.all_at_once
        assert not faults_of(happened.transcripts)
        assert any(each.how == "complete" for each in happened.transcripts)
        await gateway.drained(timeout=60.0)
        rows = await gateway.query("SELECT * FROM gateway.requests WHERE principal_name = $1", "bulk")
        records = records_below(homes)
        found = reconcile(rows, records, happened.transcripts, slack=128)
        assert not found, f"seed {seed}: {report(found)}"
        print(f"{len(rows)} rows, {len(records)} attempts: {report(found)}")
