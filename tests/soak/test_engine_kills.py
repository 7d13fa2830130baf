"""Two replicas of the real vLLM, killed twenty times (or --kills) under load: what comes back by itself, and the books."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from engines.local.environment import install
from engines.local.launch import EngineSpec
from engines.local.supervise import keep_all
from tests.faults.load import Mix
from tests.system.deployment import BULK, ENDPOINT, Deployment
from tests.system.engine_kills import Watched, books_against, faults_of, kill_under_load

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(0)]

MIX = Mix(model=ENDPOINT, tokens=(1, 60), delays_ms=(5,))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replicas(homes: Path) -> AsyncIterator[tuple[list[EngineSpec], Watched]]:
    """Two real engines under the supervision that `weighbridge engine` has, pauses included."""
    root = Path(os.environ.get("WEIGHBRIDGE_HOME", "var")).resolve()
    made = await install(root / "engine-venv", lambda line: print(f"engine: {line}"))
    specs = [
        EngineSpec(
            python=made.python,
            socket=homes / f"engine-{number}.sock",
            cache=root / "engine-cache",
            log=homes / "logs" / f"vllm-{number}.log",
            adapters=False,
        )
        for number in range(2)
    ]
    watched = Watched()
    running = asyncio.create_task(keep_all(specs, watched))
    await watched.until(lambda: len(watched.ready()) == 2, 600)
    yield specs, watched
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    shutil.rmtree(homes / "logs", ignore_errors=True)


async def test_the_real_engine_comes_back_without_a_hand_and_the_books_balance(
    homes: Path,
    database_url: str,
    module_redis: str,
    replicas: tuple[list[EngineSpec], Watched],
    seed: int,
    pytestconfig: pytest.Config,
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
            gateway,
            watched,
            specs,
            kills=pytestconfig.getoption("--kills") or 20,
            mix=MIX,
            seed=seed,
            rate=2,
            back_seconds=600,
        )
        print(happened.told())
        assert not faults_of(happened.transcripts)
        await gateway.drained(timeout=120.0)
        rows = await gateway.query("SELECT * FROM gateway.requests WHERE principal_name = $1", "bulk")
        wrong = books_against(rows, happened.transcripts)
        assert not wrong, "\n".join(wrong)
        print(f"{len(rows)} rows: the books balance")
