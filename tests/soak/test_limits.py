"""One limit under eight workers, a hundred seeds, and once in windows of a minute; `make soak` runs it."""

from __future__ import annotations

import pytest

from tests.system.test_limits_across_workers import (
    Crew,
    bursts_never_exceed,
    crew,
    even_load_is_admitted,
    overload_is_put_to_use,
)

__all__ = ["crew"]
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(0)]


@pytest.mark.parametrize("seed", range(100))
async def test_the_limit_holds_is_not_needlessly_strict_and_is_put_to_use(
    crew: Crew, redis_url: str, seed: int
) -> None:
    from redis import Redis

    for claim in (bursts_never_exceed, even_load_is_admitted, overload_is_put_to_use):
        with Redis.from_url(redis_url) as client:
            client.flushall()
        print(await claim(crew, redis_url, seed))


async def test_it_holds_in_windows_of_a_minute(crew: Crew, redis_url: str) -> None:
    print(await bursts_never_exceed(crew, redis_url, 1, window_ms=60_000))
