"""On a shared limit, batch work stops at its share and interactive calls go on to the whole."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from gateway.counters.hold import Hold
from gateway.counters.reservations import Reservations
from gateway.errors import LimitExceeded
from policies.limits import Metric, ScopeKind
from tests.counters.conftest import World, caller_of, limit_of


async def admitted(world: World, worker: Reservations, count: int) -> list[Any]:
    asked = await asyncio.gather(*(world.reserve(worker) for _ in range(count)), return_exceptions=True)
    assert all(isinstance(each, Hold | LimitExceeded) for each in asked)
    return [each for each in asked if isinstance(each, Hold)]


async def test_batch_work_leaves_a_fifth_of_a_shared_limit_to_interactive_calls(worker: Reservations) -> None:
    shared = limit_of(Metric.REQUESTS, 10, scope=ScopeKind.ENDPOINT)
    own = limit_of(Metric.REQUESTS, 9, scope=ScopeKind.USER_DEFAULT)
    interactive = World(limits=(shared, own))
    batch = interactive.with_caller(replace(caller_of("nightly"), share_percent=80))
    assert len(await admitted(batch, worker, 20)) == 8
    assert len(await admitted(interactive, worker, 20)) == 2
    # The two share one counter: what is interactive fills it for batch work too, not the other way round.
    assert len(await admitted(batch, worker, 1)) == 0


async def test_batch_work_fills_a_limit_of_its_own(worker: Reservations) -> None:
    own = limit_of(Metric.REQUESTS, 10, scope=ScopeKind.USER_DEFAULT)
    world = World(limits=(own,), caller=replace(caller_of("nightly"), share_percent=80))
    assert len(await admitted(world, worker, 20)) == 10
