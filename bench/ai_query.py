"""What a call from SQL costs beyond the model's time: `python -m bench.ai_query [calls]`, beside what it is made of.

Real stores with fsync, a worker, the process that answers, and an upstream that answers at once. In the same rounds: the same
call over HTTP, and a dblink connection alone, so that a busy machine shows as such.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg

from gateway.embedded.postgres import EmbeddedPostgres
from gateway.embedded.redis import EmbeddedRedis
from gateway.store.migrate import upgrade
from tests.faults.upstream import Upstream
from tests.system.deployment import ENDPOINT, Deployment, chat

ONE = f"SELECT ai_query('{ENDPOINT}', '[[text=x]]')"
MANY = f"SELECT * FROM ai_query_many('{ENDPOINT}', ARRAY(SELECT '[[text=x]]' FROM generate_series(1, $1)), parallel => 32)"
ALONE = "SELECT * FROM weighbridge_dblink.dblink('weighbridge', 'SELECT 1') AS t (x int)"


async def measure(calls: int) -> None:
    """Print the figures."""
    home = Path(tempfile.mkdtemp(prefix="wb-sql-"))
    home.chmod(0o711)
    async with EmbeddedPostgres(home) as postgres, EmbeddedRedis(home) as redis, Upstream() as upstream:
        await upgrade(postgres.url("weighbridge_owner"))
        await postgres.install_ai_query()
        deployment = Deployment(
            home=home / "gateway",
            database_url=postgres.url(),
            redis_url=redis.url(),
            engine_url=upstream.url,
            workers=1,
            sql_calls=True,
        )
        async with deployment as gateway:
            body = {"sql_role": "demo", "principal_id": gateway.ids["bulk"]}
            await gateway.administer("PUT", "/sql-roles", body)
            sql = await asyncpg.connect(postgres.url("demo"))
            owner = await asyncpg.connect(postgres.url("postgres", "system"))
            await owner.execute("SET ROLE weighbridge_sql")

            def over_http() -> Awaitable[object]:
                return gateway.ask(
                    "POST", "/v1/chat/completions", chat("[[text=x]]"), key=gateway.keys["bulk"]
                )

            ways: dict[str, Callable[[], Awaitable[object]]] = {
                "ai_query()": lambda: sql.fetchval(ONE),
                "over HTTP, a fresh connection": over_http,
                "a dblink connection alone": lambda: owner.fetch(ALONE),
            }
            took: dict[str, list[float]] = defaultdict(list)
            for number in range(calls + 5):
                for name, way in ways.items():
                    began = time.perf_counter()
                    await way()
                    if number >= 5:
                        took[name].append((time.perf_counter() - began) * 1000)
            print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {calls} calls each, ms")
            for name, found in took.items():
                found.sort()
                tenth, half = found[calls // 10], found[calls // 2]
                print(f"{name:<32}{tenth:8.2f} best tenth {half:8.2f} half")
            began = time.perf_counter()
            await sql.fetch(MANY, calls)
            print(
                f"{'ai_query_many(), 32 at once':<32}{(time.perf_counter() - began) * 1000 / calls:8.2f} a call"
            )
            await sql.close()
            await owner.close()


if __name__ == "__main__":
    asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
