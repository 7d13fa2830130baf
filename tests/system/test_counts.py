"""Four workers share one limit, and the ledger, the oracle and the clients agree on every call."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from typing import Any

import pytest

from tests.faults.load import Mix, calls, drive, summary
from tests.faults.reconcile import reconcile, report
from tests.faults.upstream import Upstream
from tests.system.deployment import ENDPOINT, Deployment, Person, chat, limit

pytestmark = pytest.mark.asyncio(loop_scope="module")

RESERVED = 400
OUTPUT = 208


def reserving_400(script: str) -> dict[str, Any]:
    """A plain call: 368 bytes are 184 estimated tokens, the message costs 8, and the answer may have 208."""
    return chat(f"[[{script}]] ".ljust(368, "x"), max_tokens=OUTPUT)


@pytest.fixture(scope="module")
def people() -> dict[str, Person]:
    return {
        "shared": Person((limit("total_tokens", 1000),)),
        "edge": Person((limit("requests", 10, window_ms=2000),)),
    }


async def test_of_twenty_parallel_calls_over_four_workers_exactly_two_are_admitted(
    gateway: Deployment, upstream: Upstream
) -> None:
    key = gateway.keys["shared"]
    before = len(upstream.records)
    body = reserving_400("tokens=100 first=3s")
    answers = await asyncio.gather(
        *(gateway.ask("POST", "/v1/chat/completions", body, key=key) for _ in range(20))
    )
    admitted = [each for each in answers if each.status == 200]
    refused = [each for each in answers if each.status == 429]
    assert len(upstream.records) - before == len(admitted) == 2
    assert len(refused) == 18
    for each in admitted:
        assert each.headers["x-weighbridge-reserved"]
        assert each.headers["x-ratelimit-limit-tokens"] == "1000"
    for each in refused:
        assert each.code == "rate_limit_exceeded"
        assert 1 <= int(each.headers["retry-after"]) <= 60
        assert each.headers["x-ratelimit-limit-tokens"] == "1000"
        assert each.headers["x-ratelimit-remaining-tokens"] == "200"
        detail = each.json()["error"]["limit"]
        assert detail["limit"] == gateway.ids["shared/total_tokens"]
        assert (detail["remaining"], detail["requested"], detail["amount"]) == (200, RESERVED, 1000)

    # Settled, the counter holds what was used and nothing else: of 1,000 exactly what is left is reserved next.
    used = sum(each.json()["usage"]["total_tokens"] for each in admitted)
    rows = [await gateway.row_of(each.request_id) for each in admitted]
    assert used == sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows)
    for each in refused:
        assert not await gateway.query(
            "SELECT 1 FROM gateway.requests WHERE request_id = $1::uuid", each.request_id
        )
    left = 1000 - used
    over = await gateway.ask("POST", "/v1/chat/completions", chat("x", max_tokens=left - 8), key=key)
    assert over.status == 429
    assert over.headers["x-ratelimit-remaining-tokens"] == str(left)
    exact = await gateway.ask("POST", "/v1/chat/completions", chat("x", max_tokens=left - 9), key=key)
    assert exact.status == 200
    assert exact.headers["x-ratelimit-remaining-tokens"] == "0"


async def test_no_window_of_its_length_admits_more_than_the_limit(gateway: Deployment, seed: int) -> None:
    """A window of 2 s in 61 buckets, hit all the time for four windows: no 2 s hold more than 10 requests."""
    key = gateway.keys["edge"]
    loop = asyncio.get_running_loop()
    ends = loop.time() + 8.2
    admitted: list[str] = []

    async def hammer() -> None:
        while loop.time() < ends:
            answer = await gateway.ask("POST", "/v1/chat/completions", chat("[[tokens=1]]"), key=key)
            if answer.status == 200:
                admitted.append(answer.request_id)
            else:
                assert answer.status == 429, answer
                await asyncio.sleep(0.02)

    await asyncio.gather(*(hammer() for _ in range(4)))
    await gateway.drained()
    rows = await gateway.query(
        "SELECT (extract(epoch FROM admitted_at) * 1000)::bigint AS at FROM gateway.requests"
        " WHERE principal_name = 'edge' ORDER BY sequence"
    )
    at = sorted(row["at"] for row in rows)
    assert len(at) == len(admitted)
    fullest = max(bisect_right(at, start + 1999) - index for index, start in enumerate(at))
    print(f"{len(at)} admitted in 8.2 s; the fullest 2 s hold {fullest} of 10")
    assert fullest <= 10
    # Nor is it needlessly strict: ten in each of four windows, each 1/60 longer than it must be.
    assert len(at) >= 35


async def test_ledger_oracle_and_clients_agree_under_mixed_load(
    gateway: Deployment, upstream: Upstream, seed: int
) -> None:
    seen = len(upstream.records)
    mix = Mix(model=ENDPOINT)
    transcripts = await drive(
        gateway.target, calls(seed=seed, keys=[gateway.keys["bulk"]], mix=mix), count=400, concurrency=16
    )
    print(summary(transcripts))
    await gateway.drained()
    assert {each.status for each in transcripts if each.how == "refused"} == set()
    rows = await gateway.query("SELECT * FROM gateway.requests WHERE principal_name = 'bulk'")
    found = reconcile(rows, upstream.records[seen:], transcripts)
    assert not found, report(found)
