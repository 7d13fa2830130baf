"""Ten thousand real calls with the policy changing in between, and every explanation held against them."""

from __future__ import annotations

import pytest

from tests.system.deployment import Deployment, Person
from tests.system.test_explanations import NAMES, agree

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(0)]


@pytest.fixture(scope="module")
def workers() -> int:
    return 2


@pytest.fixture(scope="module")
def people() -> dict[str, Person]:
    return {name: Person(may_query=False) for name in NAMES}


async def test_explanations_agree_with_ten_thousand_calls(gateway: Deployment, seed: int) -> None:
    print(await agree(gateway, calls=10_000, rounds=50, seed=seed))
