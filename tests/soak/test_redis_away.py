"""Redis stopped for 30 s under load, then frozen for 30 s, beside the 20 s before; `make soak` runs it.

In the suite the same is done for 10 and 6 s.
"""

from __future__ import annotations

import pytest

from gateway.embedded.redis import EmbeddedRedis
from tests.faults.upstream import Upstream
from tests.system.deployment import Deployment
from tests.system.test_outages import bridged, module_redis, people, redis, workers

__all__ = ["module_redis", "people", "redis", "workers"]
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(0)]


@pytest.mark.parametrize("frozen", [False, True], ids=["stopped", "frozen"])
async def test_redis_away_for_30_s_is_bridged_and_found_again_within_2_s(
    gateway: Deployment, upstream: Upstream, redis: EmbeddedRedis, seed: int, frozen: bool
) -> None:
    await bridged(gateway, upstream, redis, seed=seed, frozen=frozen, seconds=30.0, before=20.0)
