"""A request that a provider has no word for: another entity may take it, and nobody is to blame."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engines.errors import Unsupported
from gateway.errors import BadRequest
from gateway.pipeline.authenticate import authenticate
from gateway.pipeline.completion import complete
from policies.circuits import State
from tests.pipeline.fakes import ENDPOINT, FIRST, SNAPSHOT, World


async def test_what_one_provider_cannot_be_asked_another_answers_and_no_circuit_hears_of_it() -> None:
    world = World()
    world.engines.transports["e1"].answer = Unsupported("n")
    for _ in range(10):
        exchange = world.exchange()
        await authenticate(world.line, exchange)
        assert b"hello" in await complete(world.line, exchange)
    assert world.engines.called.count("one") == 10
    assert world.traffic.target(FIRST, "one").circuit.state is State.CLOSED


async def test_where_nobody_can_be_asked_the_caller_is_told_the_field_after_one_try() -> None:
    world = World()
    alone = replace(ENDPOINT, entities=(FIRST,), fallbacks=())
    world.catalog.snapshot = replace(SNAPSHOT, endpoints={"chat": alone})
    world.engines.transports["e1"].answer = Unsupported("n", "one choice a call")
    exchange = world.exchange()
    await authenticate(world.line, exchange)
    with pytest.raises(BadRequest) as caught:
        await complete(world.line, exchange)
    assert (caught.value.code, caught.value.param) == ("unsupported_field", "n")
    assert len(world.engines.called) == 1
    assert world.reservations.settlements == [(0, 0, 0)]
