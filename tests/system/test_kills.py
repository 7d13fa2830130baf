"""kill -9 of workers and of the drainer under load: nothing that a client saw is missing, nothing is counted twice.

Here it is 20 kills, eight of them at the named points of the line; tests/soak goes on for as long as it is told.
"""

from __future__ import annotations

import pytest

from tests.faults.killer import DRAINER_POINTS, WORKER_POINTS
from tests.faults.upstream import Upstream
from tests.system.deployment import Deployment
from tests.system.kills import Campaign
from tests.system.test_verify import verified

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def workers() -> int:
    return 3


async def test_nothing_is_missing_or_doubled_after_twenty_kills_under_load(
    gateway: Deployment, upstream: Upstream, seed: int
) -> None:
    campaign = Campaign(gateway, upstream, seed=seed, rate=40)
    async with campaign.load():
        for point in (*WORKER_POINTS, *DRAINER_POINTS):
            await campaign.kill_at(point)
        while campaign.kills < 20:
            await campaign.kill_at_random()
    print(campaign.told())
    await campaign.judge()
    assert (told := await verified(gateway))["exit"] == 0, told
