"""Stored answers on a real Redis: sealed, with an end, below a cap, and gone without a word when Redis is."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from redis import Redis

from gateway.counters.answers import StoredAnswers
from gateway.pipeline.ports import Stored
from gateway.security.sealing import Sealing

ANSWER = Stored(1_700_000_000_000, "stop", b'{"choices":[]}' * 20)
SEALING = Sealing({1: bytes(32)})


def made(url: str, *, cap_bytes: int = 1 << 20, secret: bytes = b"s" * 32) -> StoredAnswers:
    # Patient, as other tests have the processors too.
    return StoredAnswers(
        url, SEALING, secret, cap_bytes=cap_bytes, monotonic=time.monotonic, timeout_seconds=10.0
    )


@pytest_asyncio.fixture
async def answers(redis_url: str) -> AsyncIterator[StoredAnswers]:
    found = made(redis_url)
    await connected(found)
    yield found
    await found.close()


async def connected(answers: StoredAnswers) -> None:
    """The first question makes the connection, and is not answered from it."""
    async with asyncio.timeout(30):
        while True:
            await answers.find(b"")
            if answers.connected:
                return
            await asyncio.sleep(0.01)


async def test_what_is_stored_is_found_and_nothing_else(answers: StoredAnswers) -> None:
    assert await answers.find(b"question") is None
    answers.keep(b"question", ANSWER, 60)
    assert await answers.find(b"question") == ANSWER
    assert await answers.find(b"question?") is None


async def test_redis_sees_neither_question_nor_answer_and_everything_has_an_end(
    answers: StoredAnswers, redis_url: str
) -> None:
    answers.keep(b"question", ANSWER, 60)
    await answers.find(b"question")
    with Redis.from_url(redis_url) as redis:
        names = list(redis.scan_iter())
        assert len(names) == 3
        assert all(redis.pttl(name) > 0 for name in names)
        (stored,) = [name for name in names if redis.type(name) == b"string"]
        assert redis.pttl(stored) <= 60_000
        assert b"question" not in stored
        assert b"choices" not in (redis.get(stored) or b"")


async def test_other_secrets_find_nothing_and_what_was_moved_or_changed_is_not_believed(
    answers: StoredAnswers, redis_url: str
) -> None:
    answers.keep(b"mine", ANSWER, 60)
    answers.keep(b"yours", Stored(0, "stop", b"another"), 60)
    assert await answers.find(b"yours") is not None
    other = made(redis_url, secret=b"t" * 32)
    await connected(other)
    assert await other.find(b"mine") is None
    await other.close()
    with Redis.from_url(redis_url) as redis:
        first, second = [name for name in redis.scan_iter() if redis.type(name) == b"string"]
        values = redis.get(first), redis.get(second)
        redis.mset({first: values[1], second: values[0]})
        assert await answers.find(b"mine") is None
        assert await answers.find(b"yours") is None
        redis.set(first, b"nonsense")
        redis.set(second, b"")
        assert await answers.find(b"mine") is None
        assert await answers.find(b"yours") is None


async def test_together_they_stay_below_the_cap_and_what_would_go_soonest_goes_first(redis_url: str) -> None:
    answers = made(redis_url, cap_bytes=20_000)
    await connected(answers)
    for number in range(40):
        # The later, the shorter: those stored first are the last to go.
        answers.keep(b"%d" % number, Stored(0, "stop", os.urandom(3_000)), 1000 - number)
    held = [number for number in range(40) if await answers.find(b"%d" % number) is not None]
    assert held == [0, 1, 2, 3, 39] or held == [0, 1, 2, 3, 4, 39], held
    with Redis.from_url(redis_url) as redis:
        sizes = {name: int(size) for name, size in redis.hgetall("{wb}:answers:sizes").items()}
        total = sizes.pop(b" ")
        assert total == sum(sizes.values()) <= 20_000
        assert sizes.keys() == set(redis.zrange("{wb}:answers", 0, -1))
        assert all(redis.exists(name) for name in sizes)
    answers.keep(b"huge", Stored(0, "stop", os.urandom(30_000)), 60)
    assert await answers.find(b"huge") is None
    assert await answers.find(b"0") is not None, "and nothing made room for what never fits"
    await answers.close()


async def test_what_is_stored_again_counts_once_and_what_has_gone_counts_no_more(
    answers: StoredAnswers, redis_url: str
) -> None:
    for _ in range(5):
        answers.keep(b"same", ANSWER, 60)
    answers.keep(b"gone", ANSWER, 60)
    await answers.find(b"same")
    with Redis.from_url(redis_url) as redis:
        sizes = redis.hgetall("{wb}:answers:sizes")
        assert len(sizes) == 3
        assert int(sizes[b" "]) == sum(int(size) for name, size in sizes.items() if name != b" ")
        # As if its time had passed.
        (gone,) = redis.zrange("{wb}:answers", 0, 0)
        redis.zadd("{wb}:answers", {gone: 1})
        redis.delete(gone)
        answers.keep(b"new", ANSWER, 60)
        await answers.find(b"new")
        assert gone not in redis.hgetall("{wb}:answers:sizes")


async def test_a_server_that_forgot_the_script_is_told_it_again(
    answers: StoredAnswers, redis_url: str
) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.script_flush()
    answers.keep(b"question", ANSWER, 60)
    async with asyncio.timeout(30):
        while await answers.find(b"question") is None:
            await asyncio.sleep(0.01)


async def test_without_redis_there_is_no_answer_and_no_error() -> None:
    answers = made("redis://127.0.0.1:1/0")
    for _ in range(3):
        assert await answers.find(b"question") is None
        answers.keep(b"question", ANSWER, 60)
        await asyncio.sleep(0)
    await answers.close()


@pytest.mark.parametrize("patience", [0.02])
async def test_a_redis_that_does_not_answer_is_left_alone_for_a_while(
    redis_url: str, patience: float
) -> None:
    clock = [100.0]
    answers = StoredAnswers(
        redis_url, SEALING, b"s" * 32, cap_bytes=1 << 20, monotonic=lambda: clock[0], timeout_seconds=patience
    )
    await connected(answers)
    with Redis.from_url(redis_url) as redis:
        redis.client_pause(1_000)
        assert await answers.find(b"question") is None
        began = time.monotonic()
        for _ in range(50):
            assert await answers.find(b"question") is None
        assert time.monotonic() - began < 50 * patience, "nobody waited but the first"
        clock[0] += 2.0
        assert answers.connected
    await answers.close()
