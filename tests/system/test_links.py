"""Every link of a gateway hurt under load: what the counters hold at the end is what the ledger says was used.

The limits here span a day, so that nothing leaves their windows: a grant that was lost, given back twice or never
corrected shows as a difference.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.embedded.postgres import EmbeddedPostgres
from gateway.embedded.redis import EmbeddedRedis
from tests.faults.load import Mix, calls, drive, summary
from tests.faults.proxy import FaultProxy
from tests.faults.reconcile import reconcile, report
from tests.faults.transcript import Transcript
from tests.faults.upstream import Upstream
from tests.system.deployment import ENDPOINT, Deployment, Person, chat, limit

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

DAY = 86_400_000
WIDE = 10_000_000


@dataclass(frozen=True)
class Links:
    """The three links."""

    upstream: FaultProxy
    postgres: FaultProxy
    redis: FaultProxy


def weighed() -> Person:
    return Person(
        (
            limit("total_tokens", WIDE, window_ms=DAY),
            limit("requests", WIDE, window_ms=DAY),
            {"metric": "concurrent_requests", "amount": 1000, "window_kind": "none"},
        )
    )


@pytest.fixture(scope="module")
def people() -> dict[str, Person]:
    return {f"weighed-{n}": weighed() for n in range(6)}


@pytest.fixture(scope="module")
def sockets() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="wb-link-"))
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def links(
    sockets: Path,
    upstream: Upstream,
    postgres_server: EmbeddedPostgres,
    redis_server: EmbeddedRedis,
    module_redis: str,
) -> AsyncIterator[Links]:
    postgres_socket = Path(postgres_server.url().partition("host=")[2].partition("&")[0]) / ".s.PGSQL.5432"
    redis_socket = redis_server.url().removeprefix("unix://").partition("?")[0]
    async with (
        FaultProxy(upstream=("127.0.0.1", upstream.port)) as to_upstream,
        FaultProxy(upstream=postgres_socket, listen=str(sockets / ".s.PGSQL.5432")) as to_postgres,
        FaultProxy(upstream=redis_socket, listen=str(sockets / "redis.sock")) as to_redis,
    ):
        yield Links(to_upstream, to_postgres, to_redis)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    homes: Path,
    sockets: Path,
    database_url: str,
    database_name: str,
    module_redis: str,
    links: Links,
    people: dict[str, Person],
) -> AsyncIterator[Deployment]:
    async with Deployment(
        home=homes / "gateway",
        database_url=f"postgresql://weighbridge_app@/{database_name}?host={sockets}",
        books_url=database_url,
        redis_url=f"unix://{sockets / 'redis.sock'}?db=0",
        engine_url=f"http://127.0.0.1:{links.upstream.port}",
        counters_url=module_redis,
        workers=2,
        people=people,
    ) as made:
        yield made


async def hurt(
    gateway: Deployment, seed: int, who: str, links: Links, *, seconds: float = 5.0
) -> list[Transcript]:
    """Load through the hurt links, then healed ones until all is settled."""
    mix = Mix(model=ENDPOINT)
    transcripts = await drive(
        gateway.target, calls(seed=seed, keys=[gateway.keys[who]], mix=mix), seconds=seconds, rate=30
    )
    for link in (links.upstream, links.postgres, links.redis):
        link.heal()
    print(summary(transcripts))
    return transcripts


async def judged(
    gateway: Deployment, upstream: Upstream, seen: int, who: str, transcripts: list[Transcript]
) -> None:
    """The books balance, and the counters hold what the ledger says."""
    await gateway.drained()
    rows = await gateway.query("SELECT * FROM gateway.requests WHERE principal_name = $1", who)
    # What a proxy still holds was emitted, and is known to nobody behind it.
    found = reconcile(rows, upstream.records[seen:], transcripts, slack=512)
    assert not found, report(found)
    used = sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows)
    wanted = {"total_tokens": used, "concurrent_requests": 0}
    held: dict[str, int] = {}
    for _ in range(100):
        held = {metric: gateway.counter(who, metric) for metric in wanted}
        if held == wanted:
            break
        await asyncio.sleep(0.1)
    # A client that left while it was admitted has no row; that it asked stands.
    requests = gateway.counter(who, "requests")
    if held == wanted and len(rows) <= requests <= len(transcripts):
        return
    held["requests"], wanted["requests"] = requests, len(rows)
    degraded = sum(row["degraded"] is not None for row in rows)
    raise AssertionError(
        f"counters hold {held}, the ledger says {wanted} ({degraded} of {len(rows)} degraded)"
    )


@pytest.mark.parametrize(
    ("who", "fault"),
    [
        ("weighed-0", "none"),
        ("weighed-1", "pieces of 7 bytes on every link"),
        ("weighed-2", "a slow database"),
        ("weighed-3", "resets of every link"),
        ("weighed-4", "Redis at the edge of its time"),
        ("weighed-5", "answers broken off upstream"),
    ],
    ids=lambda value: value if " " in value or value == "none" else "",
)
async def test_counters_and_books_are_exact_after(
    gateway: Deployment, upstream: Upstream, links: Links, seed: int, who: str, fault: str
) -> None:
    seen = len(upstream.records)
    breaking: asyncio.Task[None] | None = None
    for _ in range(6):
        assert (await gateway.ask("GET", "/v1/models", key=gateway.keys[who])).status == 200
    match fault:
        case "pieces of 7 bytes on every link":
            for link in (links.upstream, links.postgres, links.redis):
                link.slicer(7)
        case "a slow database":
            links.postgres.latency(0.8, jitter=0.4)
        case "resets of every link":

            async def reset_now_and_then() -> None:
                while True:
                    for link in (links.redis, links.postgres, links.upstream):
                        await asyncio.sleep(0.3)
                        link.reset()

            breaking = asyncio.create_task(reset_now_and_then())
        case "Redis at the edge of its time":
            links.redis.latency(0.010, jitter=0.010)
        case "answers broken off upstream":
            links.upstream.reset_after(12_000)
        case _:
            pass
    try:
        transcripts = await hurt(gateway, seed, who, links)
    finally:
        if breaking is not None:
            breaking.cancel()
    if fault in ("none", "a slow database"):
        assert all(each.how in ("complete", "left") for each in transcripts)
    assert not [each for each in transcripts if each.status == 401]
    await judged(gateway, upstream, seen, who, transcripts)


async def test_a_wiped_redis_is_rebuilt_from_the_ledger_within_seconds(
    gateway: Deployment, upstream: Upstream, redis_server: EmbeddedRedis
) -> None:
    """Windows of a day come back from the ledger; nothing is answered 5xx meanwhile."""
    from redis import Redis

    who = "weighed-0"
    await gateway.drained()
    with Redis.from_url(redis_server.url()) as client:
        client.flushall()
    answers = [
        await gateway.ask("POST", "/v1/chat/completions", chat("[[tokens=5]]"), key=gateway.keys[who])
        for _ in range(10)
    ]
    assert {each.status for each in answers} == {200}
    for _ in range(150):
        await gateway.drained()
        rows = await gateway.query("SELECT * FROM gateway.requests WHERE principal_name = $1", who)
        used = sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows)
        held = gateway.counter(who, "total_tokens")
        if held == used:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"the counter holds {held}, the ledger says {used}")
