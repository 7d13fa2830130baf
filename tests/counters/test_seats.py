"""Places that workers share, through a real Redis: never more than there are, and none is lost with who had it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis import Redis

from gateway.counters.seats import SharedSeats
from gateway.routing.seats import NoSeats, SeatsAway


@pytest.fixture
async def workers(redis_url: str) -> AsyncIterator[list[SharedSeats]]:
    made = [SharedSeats(redis_url, f"worker-{number}") for number in range(3)]
    yield made
    for each in made:
        await each.close()


async def until_taken(worker: SharedSeats, places: int = 1) -> bytes:
    async with asyncio.timeout(30):
        while (seat := await worker.take("e", places)) is None:
            await asyncio.sleep(0.005)
    return seat


async def test_as_many_have_a_place_as_there_are_and_another_entity_s_are_its_own(
    workers: list[SharedSeats],
) -> None:
    one, two, three = workers
    first, second = await one.take("e", 2), await two.take("e", 2)
    assert first is not None
    assert second is not None
    assert await three.take("e", 2) is None
    assert await three.take("other", 1) is not None
    one.give_back(first)
    assert await until_taken(three, 2) is not None
    assert await one.take("e", 2) is None


async def test_many_calls_of_many_workers_never_run_more_at_once(workers: list[SharedSeats]) -> None:
    running = most = done = 0

    async def call(worker: SharedSeats) -> None:
        nonlocal running, most, done
        seat = await until_taken(worker, 2)
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        worker.give_back(seat)
        done += 1

    await asyncio.gather(*(call(workers[number % 3]) for number in range(30)))
    # How many meet is the event loop's affair; that two do run at once is the test before this one.
    assert 1 <= most <= 2
    assert done == 30


async def test_a_worker_that_is_heard_of_no_more_has_its_places_no_longer(
    workers: list[SharedSeats], redis_url: str
) -> None:
    one, two, _ = workers
    assert await one.take("e", 1) is not None
    with Redis.from_url(redis_url) as client:
        ((member, until),) = client.zrange("{wb}:seats:e", 0, -1, withscores=True)
        client.zadd("{wb}:seats:e", {member: until - 9_000})
        await one.keep()
        assert client.zscore("{wb}:seats:e", member) >= until
        assert client.pttl("{wb}:seats:e") > 0
        assert await two.take("e", 1) is None
        client.zadd("{wb}:seats:e", {member: 1})
        assert await two.take("e", 1) is not None
        # What is another's by now is not taken back.
        await one.keep()
        assert client.zcard("{wb}:seats:e") == 1


async def test_who_waits_no_more_for_the_answer_keeps_no_place(workers: list[SharedSeats]) -> None:
    one, two, _ = workers
    asking = asyncio.create_task(one.take("e", 1))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert await until_taken(two) is not None


async def test_with_redis_away_nobody_counts() -> None:
    away = SharedSeats("redis://127.0.0.1:1", "alone")
    with pytest.raises(SeatsAway):
        await away.take("e", 1)
    await away.keep()
    await away.close()
    with pytest.raises(SeatsAway):
        await NoSeats().take("e", 1)
