"""PostgreSQL stopped under load: known keys go on, nobody is told 401, and the books come out whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.embedded.postgres import OWNER, EmbeddedPostgres
from gateway.store.migrate import upgrade
from tests.faults.load import summary
from tests.faults.upstream import Upstream
from tests.system.deployment import ENDPOINT, Deployment, Person, chat
from tests.system.test_outages import AWAY_SECONDS, CHAT, judged, load, workers

__all__ = ["workers"]
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def people() -> dict[str, Person]:
    return {"late": Person()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def postgres(stores_home: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A PostgreSQL that a test may stop."""
    async with EmbeddedPostgres(stores_home / "mortal", durable=False) as server:
        await upgrade(server.url(OWNER))
        yield server


@pytest.fixture(scope="module")
def database_url(postgres: EmbeddedPostgres) -> str:
    return postgres.url()


async def test_postgresql_stopped_for_20_s_costs_known_keys_nothing_and_loses_no_row(
    gateway: Deployment, upstream: Upstream, postgres: EmbeddedPostgres, seed: int
) -> None:
    stop = asyncio.Event()
    seen = len(upstream.records)
    # Every worker knows the key.
    for _ in range(12):
        await gateway.ask("GET", "/v1/models", key=gateway.keys["bulk"])
    running = asyncio.create_task(load(gateway, seed, stop))
    await asyncio.sleep(1.0)
    await postgres.stop()
    stopped_at = time.time()
    statuses: set[tuple[int, str | None]] = set()
    while time.time() - stopped_at < AWAY_SECONDS:
        unknown = await gateway.ask("POST", CHAT, chat(), key=gateway.keys["late"])
        statuses.add((unknown.status, unknown.headers.get("retry-after")))
        assert unknown.status == 503, unknown
        databricks = await gateway.ask(
            "POST", f"/serving-endpoints/{ENDPOINT}/invocations", chat(), key=gateway.keys["late"]
        )
        assert (databricks.status, databricks.code) == (503, "TEMPORARILY_UNAVAILABLE")
        assert (await gateway.ask("GET", "/readyz")).status == 200
        await asyncio.sleep(0.5)
    await postgres.start()
    back_at = time.time()
    async with asyncio.timeout(10):
        while (await gateway.ask("POST", CHAT, chat(), key=gateway.keys["late"])).status != 200:
            await asyncio.sleep(0.05)
    print(f"an unknown key is served {time.time() - back_at:.2f} s after the return; away: {statuses}")
    await asyncio.sleep(0.5)
    stop.set()
    transcripts = await running
    print(summary(transcripts))
    bad = [each for each in transcripts if each.how not in ("complete", "left")]
    assert not bad, [(each.status, each.how, each.error_code) for each in bad[:5]]
    await gateway.drained()
    print(f"the ledger is complete {time.time() - back_at:.1f} s after the return")
    await judged(gateway, upstream, seen, transcripts)
