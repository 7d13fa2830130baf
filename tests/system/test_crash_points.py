"""One request, one worker, one death at a named point: exactly the row that the point allows (case 34)."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from tests.faults.killer import (
    AFTER_INTENT,
    AFTER_LAST_BYTE,
    AFTER_SETTLE,
    BEFORE_FIRST_BYTE,
    BEFORE_INTENT,
    DRAINER_POINTS,
    MID_STREAM,
    armed,
)
from tests.faults.reconcile import reconcile, report
from tests.faults.transcript import Transcript
from tests.faults.upstream import Upstream
from tests.faults.wire import Client, Spec
from tests.system.deployment import Deployment, Person, chat

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def workers() -> int:
    return 1


@pytest.fixture(scope="module")
def people() -> dict[str, Person]:
    place = {"metric": "concurrent_requests", "amount": 1, "window_kind": "none"}
    day = {
        "metric": "total_tokens",
        "amount": 400,
        "window_kind": "calendar",
        "window_unit": "day",
        "time_zone": "UTC",
    }
    return {"single": Person((place,)), "daily": Person((day,))}


async def die(
    gateway: Deployment, point: str, *, stream: bool, nth: int = 1, who: str = "bulk", tokens: int = 150
) -> Transcript:
    """Let the only worker die at a point that one call reaches, and wait for its successor and the books."""
    starts = await gateway.arm("worker-0", armed(point, nth))
    await gateway.ready()
    script = f"[[tokens={tokens} delay=2ms]]"
    body = json.dumps(chat(script, stream=stream, max_tokens=tokens + 50)).encode()
    seen = await Client(gateway.target).call(Spec(call=1, body=body, stream=stream, key=gateway.keys[who]))
    await gateway.fell("worker-0", starts)
    await gateway.drained()
    return seen


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_before_the_intent_there_is_no_row_and_no_call_upstream(
    gateway: Deployment, upstream: Upstream, stream: bool
) -> None:
    rows, calls = len(await gateway.ledger_rows()), len(upstream.records)
    seen = await die(gateway, BEFORE_INTENT, stream=stream)
    assert not seen.acknowledged
    assert len(await gateway.ledger_rows()) == rows
    assert len(upstream.records) == calls


async def test_what_a_period_was_charged_before_the_intent_is_given_back(gateway: Deployment) -> None:
    """The day has room for one such call at a time, so that what a dead worker kept of it would refuse the next."""
    await die(gateway, BEFORE_INTENT, stream=False, who="daily")
    deadline = time.monotonic() + 45.0
    while True:
        answer = await gateway.ask(
            "POST", "/v1/chat/completions", chat("[[tokens=1]]", max_tokens=200), key=gateway.keys["daily"]
        )
        if answer.status == 200 or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.2)
    assert answer.status == 200, answer


@pytest.mark.parametrize(
    ("point", "stream"), [(AFTER_INTENT, False), (AFTER_INTENT, True), (BEFORE_FIRST_BYTE, False)]
)
async def test_after_the_intent_and_before_a_byte_is_known_the_row_is_interrupted_and_free(
    gateway: Deployment, point: str, stream: bool
) -> None:
    seen = await die(gateway, point, stream=stream)
    assert not seen.acknowledged
    row = (await gateway.ledger_rows())[-1]
    assert (row["status"], row["cost_nano_usd"], row["completion_tokens"]) == ("interrupted", 0, 0)


# The first piece is written with the head, in the turn in which it comes: whoever dies before has told nothing.
@pytest.mark.parametrize(("point", "nth"), [(MID_STREAM, 2), (MID_STREAM, 100), (AFTER_LAST_BYTE, 1)])
async def test_in_the_middle_of_a_stream_the_row_is_interrupted_and_near_the_truth(
    gateway: Deployment, upstream: Upstream, point: str, nth: int
) -> None:
    calls = len(upstream.records)
    # What a starved worker reads at once is one piece: there are more of them than wanted even if ten come together.
    seen = await die(gateway, point, stream=True, nth=nth, tokens=max(150, 10 * nth))
    assert seen.how == "cut"
    row = (await gateway.ledger_rows())[-1]
    assert row["status"] == "interrupted"
    assert row["cost_nano_usd"] > 0
    print(
        f"delivered {seen.delivered}, billed {row['completion_tokens']}, emitted {upstream.records[-1].emitted}"
    )
    found = reconcile([row], upstream.records[calls:], [seen])
    assert not found, report(found)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_once_it_is_settled_the_row_is_exact_though_the_client_never_heard_the_end(
    gateway: Deployment, stream: bool
) -> None:
    seen = await die(gateway, AFTER_SETTLE, stream=stream)
    assert seen.how != "complete"
    row = (await gateway.ledger_rows())[-1]
    assert (row["status"], row["completion_tokens"], row["usage_source"]) == ("ok", 150, "reported")


async def test_the_place_of_a_dead_worker_is_free_again_within_seconds(gateway: Deployment) -> None:
    """Its count of running requests is not added once it has not been seen for three seconds."""
    await die(gateway, MID_STREAM, stream=True, who="single")
    await gateway.ready()
    answer = await gateway.ask(
        "POST", "/v1/chat/completions", chat("[[tokens=1]]"), key=gateway.keys["single"]
    )
    assert answer.status == 200


@pytest.mark.parametrize("point", DRAINER_POINTS)
async def test_a_drainer_that_dies_around_its_commit_posts_each_row_once(
    gateway: Deployment, point: str
) -> None:
    await gateway.ready()
    starts = await gateway.arm("drainer", armed(point))
    answers = [
        await gateway.ask("POST", "/v1/chat/completions", chat(f"[[tokens={n}]]"), key=gateway.keys["bulk"])
        for n in range(1, 6)
    ]
    await gateway.fell("drainer", starts)
    await gateway.drained()
    rows = {str(row["request_id"]): row["completion_tokens"] for row in await gateway.ledger_rows()}
    assert [rows[each.request_id] for each in answers] == [1, 2, 3, 4, 5]
    sums = await gateway.query("SELECT coalesce(sum(requests), 0)::bigint AS n FROM gateway.usage_hour")
    assert sums[0]["n"] == len(rows)
