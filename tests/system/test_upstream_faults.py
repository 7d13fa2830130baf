"""Upstreams that refuse, stall, break off and send rubbish: the caller gets one mapped error, the books one row."""

from __future__ import annotations

import asyncio

import pytest

from tests.faults.reconcile import reconcile, report
from tests.faults.upstream import Upstream
from tests.system.deployment import ENDPOINT, Deployment, chat

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
INVOKE = f"/serving-endpoints/{ENDPOINT}/invocations"


@pytest.fixture(scope="module")
def workers() -> int:
    return 1


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(
    ("script", "v1", "databricks"),
    [
        ("fail=500", 502, 500),
        ("fail=503", 502, 500),
        ("fail=529", 502, 500),
        ("fail=404", 502, 500),
        ("fail=401", 502, 500),
        ("fail=400", 400, 400),
        ("fail=429 retry_after=3", 502, 500),
        ("fault=reset at=start", 502, 500),
        ("fault=close at=start", 502, 500),
        ("fault=endless_headers", 502, 500),
    ],
)
async def test_an_upstream_that_fails_before_a_byte_is_mapped_and_charged_nothing(
    gateway: Deployment, script: str, v1: int, databricks: int, stream: bool
) -> None:
    body = chat(f"[[{script}]]", stream=stream)
    answer = await gateway.ask("POST", CHAT, body, key=gateway.keys["bulk"])
    # Providers may pass a 429 or a 503 on as what it is.
    assert answer.status in (v1, *((429, 503) if "429" in script or "503" in script else ())), answer
    assert b"scripted" not in answer.body and b"vllm" not in answer.body.lower()
    row = await gateway.row_of(answer.request_id)
    assert (row["status"], row["cost_nano_usd"], row["completion_tokens"]) == ("error", 0, 0)
    assert row["http_status"] == answer.status
    answer = await gateway.ask("POST", INVOKE, body, key=gateway.keys["bulk"])
    assert answer.status in (databricks, *((429, 503) if "429" in script or "503" in script else ())), answer
    assert answer.json().keys() >= {"error_code", "message"}


@pytest.mark.parametrize("path", [CHAT, INVOKE])
@pytest.mark.parametrize(
    "script",
    [
        "tokens=20 delay=2ms fault=reset at=10",
        "tokens=20 delay=2ms fault=close at=10",
        "tokens=20 delay=2ms fault=no_done at=10",
        "tokens=20 delay=2ms fault=error_event at=10",
        "tokens=20 delay=2ms fault=bad_json at=10",
        "tokens=20 delay=2ms fault=bad_utf8 at=10",
        "tokens=20 delay=2ms fault=bad_chunk at=10",
        "tokens=20 delay=2ms fault=huge at=10",
    ],
)
async def test_a_stream_that_breaks_off_ends_with_an_error_event_and_is_settled_from_the_last_count(
    gateway: Deployment, upstream: Upstream, path: str, script: str
) -> None:
    seen = len(upstream.records)
    answer = await gateway.ask("POST", path, chat(f"[[{script}]]", stream=True), key=gateway.keys["bulk"])
    assert answer.status == 200
    *events, last = answer.events()
    assert last != "[DONE]" and "error" in last, answer.events()[-3:]
    assert all("error" not in each for each in events)
    if path == INVOKE:
        assert last["error_code"] and last["message"]
    row = await gateway.row_of(answer.request_id)
    assert row["status"] == "error"
    delivered = sum(bool(each["choices"] and each["choices"][0]["delta"].get("content")) for each in events)
    assert delivered <= row["completion_tokens"] <= upstream.records[seen].emitted
    assert row["cost_nano_usd"] > 0


@pytest.mark.parametrize(
    "script", ["tokens=20 fault=bad_json", "tokens=20 fault=bad_utf8", "tokens=20 fault=bad_chunk"]
)
async def test_a_plain_answer_that_is_no_answer_is_502(gateway: Deployment, script: str) -> None:
    answer = await gateway.ask("POST", CHAT, chat(f"[[{script}]]"), key=gateway.keys["bulk"])
    assert (answer.status, answer.code) == (502, "upstream_failed")


@pytest.mark.parametrize("usage", ["missing", "null", "negative", "absurd"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_usage_that_cannot_be_is_replaced_by_a_count_of_ours_and_says_so(
    gateway: Deployment, usage: str, stream: bool
) -> None:
    answer = await gateway.ask(
        "POST", CHAT, chat(f"[[tokens=12 delay=1ms usage={usage}]]", stream=stream), key=gateway.keys["bulk"]
    )
    assert answer.status == 200
    row = await gateway.row_of(answer.request_id)
    assert row["usage_source"] in ("counted", "estimated")
    assert row["status"] == "ok"
    if stream:
        assert row["completion_tokens"] == 12
    assert 0 < row["completion_tokens"] < 2000


@pytest.mark.parametrize("lines", ["crlf", "cr", "mixed"])
@pytest.mark.parametrize("size", [0, 1, 7])
async def test_however_the_upstream_cuts_its_events_the_client_gets_the_same(
    gateway: Deployment, lines: str, size: int
) -> None:
    plain = await gateway.ask("POST", CHAT, chat("[[tokens=9]]", stream=True), key=gateway.keys["bulk"])
    cut = await gateway.ask(
        "POST",
        CHAT,
        chat(f"[[tokens=9 lines={lines} slice={size} comments=1]]", stream=True),
        key=gateway.keys["bulk"],
    )

    def texts(events: list) -> list:
        return [each if each == "[DONE]" else each["choices"] for each in events]

    assert texts(cut.events()) == texts(plain.events())
    row = await gateway.row_of(cut.request_id)
    assert (row["status"], row["completion_tokens"]) == ("ok", 9)


async def test_usage_is_shown_to_those_who_asked_and_hidden_from_the_others(gateway: Deployment) -> None:
    asked = await gateway.ask(
        "POST",
        CHAT,
        chat("[[tokens=9]]", stream=True, stream_options={"include_usage": True}),
        key=gateway.keys["bulk"],
    )
    *_, usage, done = asked.events()
    assert done == "[DONE]" and usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 9
    hidden = await gateway.ask("POST", CHAT, chat("[[tokens=9]]", stream=True), key=gateway.keys["bulk"])
    assert all(each == "[DONE]" or (each["choices"] and not each.get("usage")) for each in hidden.events())


async def test_an_upstream_that_is_not_there_is_answered_and_found_again(
    gateway: Deployment, upstream: Upstream
) -> None:
    await upstream.refuse()
    answer = await gateway.ask("POST", CHAT, chat(), key=gateway.keys["bulk"])
    assert answer.status in (502, 503), answer
    await upstream.accept()
    for _ in range(200):
        if (await gateway.ask("POST", CHAT, chat(), key=gateway.keys["bulk"])).status == 200:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the engine was not found again within 10 s")


async def test_max_tokens_is_set_for_plain_calls_without_it_and_multiplied_by_n(
    gateway: Deployment, upstream: Upstream
) -> None:
    """Case 29: what nobody bounded is bounded by the endpoint's default, and n answers reserve n times."""
    answer = await gateway.ask("POST", CHAT, chat("[[tokens=3]]", max_tokens=None), key=gateway.keys["bulk"])
    assert answer.status == 200
    assert upstream.records[-1].max_tokens == 1024
    assert "output=1024" in answer.headers["x-weighbridge-reserved"]
    answer = await gateway.ask(
        "POST", CHAT, chat("[[tokens=3]]", max_tokens=10, n=4), key=gateway.keys["bulk"]
    )
    assert "output=40" in answer.headers["x-weighbridge-reserved"]
    row = await gateway.row_of(answer.request_id)
    assert row["completion_tokens"] == 12
    huge = await gateway.ask("POST", CHAT, chat("[[tokens=3]]", max_tokens=900_000), key=gateway.demo_key)
    assert (huge.status, huge.code) == (429, "rate_limit_exceeded") or huge.headers[
        "x-should-retry"
    ] == "false"


async def test_one_idempotency_key_makes_one_call_and_one_row(
    gateway: Deployment, upstream: Upstream
) -> None:
    seen = len(upstream.records)
    body = chat("[[tokens=3 first=500ms]]")
    headers = [("idempotency-key", "order-1")]
    answers = await asyncio.gather(
        *(gateway.ask("POST", CHAT, body, key=gateway.keys["bulk"], headers=headers) for _ in range(20))
    )
    assert sorted(each.status for each in answers) == [200] + [409] * 19
    assert len(upstream.records) == seen + 1
    refused = next(each for each in answers if each.status == 409)
    assert refused.headers["x-should-retry"] == "false"
    other = await gateway.ask("POST", CHAT, chat("other"), key=gateway.keys["bulk"], headers=headers)
    assert other.status == 422
    done = await gateway.ask("POST", CHAT, body, key=gateway.keys["bulk"], headers=headers)
    assert (done.status, done.code) == (409, "already_completed")
    # Another caller's key of the same name is another key.
    assert (await gateway.ask("POST", CHAT, body, key=gateway.demo_key, headers=headers)).status == 200
    databricks = await gateway.ask("POST", INVOKE, chat("other"), key=gateway.keys["bulk"], headers=headers)
    assert databricks.status in (400, 409)
    assert len(upstream.records) == seen + 2


async def test_the_books_balance_after_all_of_this(gateway: Deployment, upstream: Upstream) -> None:
    await gateway.drained()
    rows = await gateway.ledger_rows()
    # Where the upstream told no count, or was never reached, it is no witness.
    reached = {record.request_id for record in upstream.records}
    mute = {
        str(row["request_id"])
        for row in rows
        if row["usage_source"] in ("counted", "estimated")
        or (str(row["request_id"]) not in reached and not row["cost_nano_usd"] and row["status"] == "error")
    }
    found = reconcile(
        [row for row in rows if str(row["request_id"]) not in mute],
        [each for each in upstream.records if each.request_id not in mute],
        [],
    )
    assert not found, report(found)
