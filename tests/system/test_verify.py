"""The books of a real deployment verify clean: plain calls, streams, clients that leave, a killed worker, refusals."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from redis import Redis

from gateway.security.secrets import Purpose, load_master_key
from gateway.store.audit_heads import read_heads
from tests.system.deployment import Deployment, chat

if TYPE_CHECKING:
    from gateway.embedded.postgres import EmbeddedPostgres

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def workers() -> int:
    return 2


async def verified(gateway: Deployment) -> dict[str, Any]:
    """What `weighbridge verify` answers, with its exit status."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", "verify", "--format", "json",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ, **gateway.settings.to_env()},
    )  # fmt: skip
    told, said = await process.communicate()
    assert told, said.decode()
    return {**json.loads(told), "exit": process.returncode}


async def refused(owner: asyncpg.Connection) -> int:
    """How many calls were refused for want of a permission, by the audit."""
    found = await owner.fetchval(
        "SELECT coalesce(sum(count), 0) FROM gateway.audit_refusals WHERE code = 'permission_denied'"
    )
    return int(found)


async def test_the_books_of_a_busy_deployment_verify_and_a_planted_counter_does_not(
    gateway: Deployment, postgres_server: EmbeddedPostgres, database_name: str, module_redis: str
) -> None:
    budget = await gateway.administer(
        "POST", "/budgets", {"name": "all", "scope": "deployment", "period": "month", "usd": "100"}
    )
    owner = await asyncpg.connect(postgres_server.url("postgres", database_name))
    # A budget that has just changed is left out: this one is to be old enough, whatever guards its versions.
    await owner.execute("SET session_replication_role = replica")
    await owner.execute("UPDATE gateway.budgets SET valid_from = valid_from - interval '1 hour'")

    async def some() -> None:
        for number in range(12):
            body = chat("hello", stream=number % 2 == 0, max_tokens=8 + number)
            await gateway.ask("POST", CHAT, body, key=gateway.keys["bulk"])

    await asyncio.gather(*(some() for _ in range(4)))
    for _ in range(30):
        await gateway.ask("POST", CHAT, chat(), key=gateway.keys["stranger"])
        await gateway.ask("POST", CHAT, chat(), key="wb-nobody")
    # The counts of a worker's present second are in its memory: a kill takes them with it, so they are waited for.
    async with asyncio.timeout(60):
        while await refused(owner) < 30:
            await asyncio.sleep(0.1)
    cut = asyncio.create_task(
        gateway.ask("POST", CHAT, chat("[[tokens=400 delay=50ms]]", stream=True), key=gateway.keys["bulk"])
    )
    await asyncio.sleep(0.5)
    await gateway.kill("worker-0")
    await asyncio.gather(cut, return_exceptions=True)
    await gateway.ready()
    await some()
    await gateway.drained()

    deadline = asyncio.get_running_loop().time() + 90
    while (told := await verified(gateway))["exit"] != 0:
        assert asyncio.get_running_loop().time() < deadline, (told, gateway.ends_of_logs())
        await asyncio.sleep(1)
    looked = {each["name"]: each["looked_at"] for each in told["checks"]}
    assert looked["attempts"] >= 60
    assert looked["spools"] >= 120
    assert looked["balances"] >= 1
    assert looked["counters"] >= 1
    assert await refused(owner) == 30
    master = load_master_key(gateway.settings.secret_file)
    assert read_heads(gateway.settings.audit_heads, [master.derive(Purpose.AUDIT_CHAIN)])

    with Redis.from_url(module_redis) as redis:
        (key,) = redis.scan_iter(f"{{wb}}:p:{budget['id']}:*")
        redis.hincrby(key, "t", 1)
    told = await verified(gateway)
    (wrong,) = [each for each in told["checks"] if each["findings"]]
    assert (told["exit"], wrong["name"]) == (1, "counters")
    assert "its base and deltas are" in wrong["findings"][0]["what"]
    await owner.close()
