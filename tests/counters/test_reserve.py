"""One script decides all limits of a request, all or nothing."""

from __future__ import annotations

import asyncio

from gateway.counters.reservations import Reservations
from gateway.errors import LimitExceeded
from policies.limits import Metric
from tests.counters.conftest import Connect, World, limit_of, settle


async def test_of_twenty_parallel_calls_of_400_tokens_a_limit_of_1000_admits_exactly_two(
    connect: Connect,
) -> None:
    workers = [await connect() for _ in range(4)]
    world = World(limits=(limit_of(Metric.TOTAL_TOKENS, 1000, name="tokens"),))
    outcomes = await asyncio.gather(
        *(world.reserve(workers[number % 4], 144, 256) for number in range(20)), return_exceptions=True
    )
    admitted = [each for each in outcomes if not isinstance(each, BaseException)]
    refused = [each for each in outcomes if isinstance(each, BaseException)]
    assert len(admitted) == 2
    assert len(refused) == 18
    for error in refused:
        assert isinstance(error, LimitExceeded)
        assert error.code == "rate_limit_exceeded"
        assert error.retry_after_seconds is not None
        assert 59 <= error.retry_after_seconds <= 60
        assert error.detail.remaining == 200
        assert error.detail.requested == 400
        assert dict(error.headers)[b"x-ratelimit-remaining-tokens"] == b"200"
        assert "'alice'" in error.message
        assert "'tokens'" in error.message
    for hold in admitted:
        await settle(hold.home, hold, 100, 50)
    last = await world.reserve(workers[0], 0, 700)
    assert dict(last.headers)[b"x-ratelimit-remaining-tokens"] == b"0"


async def test_a_grant_names_what_is_left_and_what_was_reserved(worker: Reservations) -> None:
    limits = (
        limit_of(Metric.REQUESTS, 10),
        limit_of(Metric.TOTAL_TOKENS, 1000),
        limit_of(Metric.INPUT_TOKENS, 500),
    )
    hold = await World(limits=limits).reserve(worker, 100, 250)
    headers = dict(hold.headers)
    assert headers[b"x-ratelimit-limit-requests"] == b"10"
    assert headers[b"x-ratelimit-remaining-requests"] == b"9"
    assert headers[b"x-ratelimit-limit-tokens"] == b"500"
    assert headers[b"x-ratelimit-remaining-tokens"] == b"400"
    assert headers[b"x-ratelimit-reset-tokens"].startswith((b"1m", b"59", b"60"))
    assert headers[b"x-weighbridge-reserved"] == b"input=100, output=250"
    assert hold.sequence > 0
    assert [charge.fixed for charge in hold.charges] == [1, 350, 100]
