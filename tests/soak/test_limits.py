"""One limit under eight workers, a hundred seeds, and once in windows of a minute; `make soak` runs it."""

from __future__ import annotations

import asyncio

import pytest
from redis import Redis

from tests.system.test_limits_across_workers import (
    Crew,
    bursts_never_exceed,
    crew,
    even_load_is_admitted,
    overload_is_put_to_use,
)

__all__ = ["crew"]
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(0)]
AT_ONCE = 4
"""Seeds side by side: each lasts as long as its windows, and waits most of the time."""


@pytest.mark.parametrize("first", range(0, 100, AT_ONCE))
async def test_the_limit_holds_is_not_needlessly_strict_and_is_put_to_use(
    crew: Crew, redis_url: str, first: int
) -> None:
    for claim in (bursts_never_exceed, even_load_is_admitted, overload_is_put_to_use):
        with Redis.from_url(redis_url) as client:
            client.flushall()
        seeds = range(first, first + AT_ONCE)
        for told in await asyncio.gather(*(claim(crew, redis_url, seed) for seed in seeds)):
            print(told)


async def test_it_holds_in_windows_of_a_minute(crew: Crew, redis_url: str) -> None:
    print(await bursts_never_exceed(crew, redis_url, 1, window_ms=60_000))
