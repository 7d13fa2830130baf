"""A benchmark whose books do not balance prints no figure: each thing that can be wrong is seen, and named."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis import Redis

from bench import books as books_module
from bench.books import Books, Emitted, Oracle, Unbalanced
from bench.rounds import _answered
from gateway.spool.books import Place
from gateway.spool.joining import Entry, settled
from tests.auditor.posting import WORKER, ended, ms, post
from tests.conftest import run_now
from tests.spool.making import attempt, intent, settlement

AT = "2026-11-03 12:00:00"
CALLS, PROMPT, COMPLETION, COST = 3, 300, 150, 3 * 207
"""What three calls of tests/spool/making.py come to."""
EMITTED = Emitted(CALLS, PROMPT, COMPLETION)
PURSE, RUNNING = "{wb}:p:purse:u_1:0", "{wb}:n:limit:u_1"


@pytest.fixture(scope="module")
def ledger(database_url: str) -> str:
    """Three calls in the ledger."""
    run_now(post(database_url, *(ended(AT) for _ in range(CALLS))))
    return database_url


@pytest.fixture
def redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    """Counters that say the same, and nobody who waits for them to."""
    monkeypatch.setattr(books_module, "DRAIN_SECONDS", 0.0)
    monkeypatch.setattr(books_module, "SETTLE_SECONDS", 0.0)
    with Redis.from_url(redis_url) as client:
        client.hset(PURSE, "t", COST)
        client.hset(RUNNING, "worker", 0)
        yield client


@pytest.fixture
async def books(ledger: str, redis: Redis, redis_url: str) -> AsyncIterator[Books]:
    made = await Books.open(ledger, redis_url)
    yield made
    await made.close()


async def test_books_that_balance_are_told_as_they_are(books: Books) -> None:
    await books.drained(CALLS)
    books.note(CALLS, EMITTED)
    await books.drained(0)
    assert await books.check() == {
        "calls": CALLS,
        "prompt_tokens": PROMPT,
        "completion_tokens": COMPLETION,
        "cost_nano_usd": COST,
        "open_reservations": 0,
    }


@pytest.mark.parametrize(
    ("emitted", "named"),
    [
        (Emitted(CALLS - 1, PROMPT, COMPLETION), "rows in the ledger"),
        (Emitted(CALLS + 1, PROMPT, COMPLETION), "rows in the ledger"),
        (Emitted(CALLS, PROMPT + 1, COMPLETION), "prompt tokens"),
        (Emitted(CALLS, PROMPT - 1, COMPLETION), "prompt tokens"),
        (Emitted(CALLS, PROMPT, COMPLETION + 1), "completion tokens"),
        (Emitted(CALLS, PROMPT, COMPLETION - 1), "completion tokens"),
    ],
)
async def test_rows_and_tokens_are_held_against_the_upstreams(
    books: Books, emitted: Emitted, named: str
) -> None:
    books.note(emitted.requests, emitted)
    with pytest.raises(Unbalanced, match=named):
        await books.check()


@pytest.mark.parametrize("requests", [CALLS - 1, CALLS + 1])
async def test_an_upstream_that_was_called_more_or_less_often_is_seen(books: Books, requests: int) -> None:
    with pytest.raises(Unbalanced, match="3 calls were answered"):
        books.note(CALLS, Emitted(requests, PROMPT, COMPLETION))


@pytest.mark.parametrize("more", [CALLS - 1, CALLS + 1])
async def test_a_row_too_many_and_one_that_never_comes_are_seen(books: Books, more: int) -> None:
    with pytest.raises(Unbalanced, match="the ledger has 3 requests"):
        await books.drained(more)


@pytest.mark.parametrize(
    ("key", "field", "value", "named"),
    [
        (RUNNING, "worker", 1, "1 reservations are still open"),
        (RUNNING, "another", 2, "2 reservations are still open"),
        (PURSE, "t", COST + 1, "the budgets' counters say 622"),
        (PURSE, "t", COST - 1, "the budgets' counters say 620"),
        ("{wb}:p:purse:u_2:0", "t", 5, "the budgets' counters say 626"),
    ],
)
async def test_counters_that_were_not_settled_are_seen(
    books: Books, redis: Redis, key: str, field: str, value: int, named: str
) -> None:
    redis.hset(key, field, value)
    books.note(CALLS, EMITTED)
    with pytest.raises(Unbalanced, match=named):
        await books.check()


def test_an_upstream_that_still_runs_calls_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {"running": 0, "requests": 1, "prompt_tokens": 2, "emitted": 3}
    monkeypatch.setattr(Oracle, "_ask", lambda *_: told)
    assert Oracle(0).counted() == Emitted(1, 2, 3)
    told["running"] = 1
    with pytest.raises(Unbalanced, match="1 calls still run"):
        Oracle(0).counted()


@pytest.mark.parametrize("done", [{"calls": 5, "failed": 1}, {"calls": 0, "failed": 0}])
def test_a_call_that_failed_and_a_load_that_made_none_are_seen(done: dict[str, Any]) -> None:
    with pytest.raises(Unbalanced):
        _answered({**done, "quotes": []}, "plain-1")


async def test_a_row_that_did_not_end_well_or_has_another_count_is_seen(
    books: Books, redis: Redis, ledger: str
) -> None:
    """The last one: it adds to the ledger."""
    begun = intent(admitted_at_ms=ms(AT))
    counted = attempt(begun, usage_source="counted")
    for calls, row, named in (
        (
            CALLS + 1,
            settled(Entry(begun, Place(0, 0)), settlement(begun, counted), WORKER),
            "not the upstream",
        ),
        (CALLS + 2, ended(AT, end={"status": "error"}), "did not end well: 1"),
    ):
        await post(ledger, row)
        redis.hset(PURSE, "t", 207 * calls)
        books.note(calls, Emitted(calls, 100 * calls, 50 * calls))
        with pytest.raises(Unbalanced, match=named):
            await books.check()
        books.note(-calls, Emitted(-calls, -100 * calls, -50 * calls))
