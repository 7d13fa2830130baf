"""A thousand rows asked from SQL while the process that answers is killed twice: each answered once, each one request."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.upstream import Upstream
from tests.system.conftest import module_redis
from tests.system.deployment import Deployment
from tests.system.test_ai_query import connected, gateway, killed_over, people, workers

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(0)]

__all__ = ["connected", "gateway", "module_redis", "people", "workers"]


async def test_a_thousand_rows_are_answered_once_each_though_the_process_is_killed_twice(
    gateway: Deployment, upstream: Upstream, connected: Any
) -> None:
    async with connected() as sql:
        await killed_over(gateway, upstream, sql, 1000)
