"""Eight workers at one limit, all at once around the edges of windows: in none is more reserved than the limit.

It claims no time, as its neighbour does: it has a file of its own, so that it need not wait until no other test runs.
"""

from __future__ import annotations

import pytest

from tests.system.test_limits_across_workers import SEEDS, Crew, bursts_never_exceed, crew, side_by_side

__all__ = ["crew"]
pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_in_no_window_is_more_reserved_than_the_limit(crew: Crew, redis_url: str) -> None:
    await side_by_side(*(bursts_never_exceed(crew, redis_url, seed) for seed in SEEDS))
