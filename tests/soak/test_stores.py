"""The stateful model of principals, budgets, reservations and their ends, for many more steps; `make soak` runs it."""

from __future__ import annotations

import pytest

from tests.counters.test_stores_agree import agree

pytestmark = pytest.mark.timeout(0)


def test_stores_and_model_agree_over_thousands_of_steps(
    database_url: str, owner_url: str, redis_url: str
) -> None:
    agree(database_url, owner_url, redis_url, examples=60, steps=60)
