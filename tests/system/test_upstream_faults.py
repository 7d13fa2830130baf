"""Upstreams that refuse, stall, break off and send rubbish: the caller gets one mapped error, the books one row."""

from __future__ import annotations

import asyncio
import json
import random
from datetime import UTC, datetime

import asyncpg
import pytest
import pytest_asyncio

from gateway.embedded.postgres import EmbeddedPostgres
from gateway.verify.books import check_books
from policies.doubts import Doubt
from tests.faults.journal import COMPLETE, OracleRecord
from tests.faults.reconcile import reconcile, report
from tests.faults.script import parse_script
from tests.faults.upstream import Upstream
from tests.system.deployment import ENDPOINT, Deployment, chat

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"
LIED_TO: set[str] = set()
"""Requests whose upstream told a count that is kept as told: it is no witness against the ledger."""
INVOKE = f"/serving-endpoints/{ENDPOINT}/invocations"


@pytest.fixture(scope="module")
def workers() -> int:
    return 1


async def attempts(gateway: Deployment, request_id: str) -> list:
    """The calls that a request made, in order."""
    await gateway.drained()
    return await gateway.query(
        "SELECT * FROM gateway.attempts WHERE request_id = $1::uuid ORDER BY attempt", request_id
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def impatient(gateway: Deployment, upstream: Upstream) -> str:
    """An endpoint whose model's server has less than a second for everything."""
    entity = external(f"{upstream.url}/v1", first_token_ms=600, between_ms=500, total_ms=900)
    await gateway.administer("POST", "/endpoints", {"name": "impatient", "served_entities": [entity]})
    return "impatient"


def external(url: str, **calling: int) -> dict:
    """A served entity at an address."""
    return {
        "name": "m",
        "kind": "external",
        "provider": "openai-compatible",
        "model": "m",
        "base_url": url,
        "calling": calling,
    }


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
        ("fail=429 retry_after=1", 502, 500),
        ("fail=429 retry_after=0.3", 502, 500),
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
    status = int(script[5:8]) if script.startswith("fail=") else None
    tried = await attempts(gateway, answer.request_id)
    assert tried
    assert {(each["outcome"], each["http_status"]) for each in tried} == {("error", status)}
    if status in (429, 503, 529):
        # What was asked of us is passed on, up to what a client can be asked to wait.
        assert answer.code == "upstream_overloaded"
        assert answer.headers["retry-after"] == ("1" if "retry_after" in script else "2")
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


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("at", ["start", "headers"])
async def test_an_upstream_that_never_begins_is_504_in_its_time_and_others_are_served_meanwhile(
    gateway: Deployment, upstream: Upstream, impatient: str, at: str, stream: bool
) -> None:
    seen = len(upstream.records)
    body = {**chat(f"[[tokens=20 fault=stall at={at}]]", stream=stream), "model": impatient}
    silent = [asyncio.create_task(gateway.ask("POST", CHAT, body, key=gateway.admin_key)) for _ in range(5)]
    await upstream.until(lambda records: len(records) >= seen + 5)
    served = await gateway.ask("POST", CHAT, chat("[[tokens=3]]"), key=gateway.keys["bulk"])
    assert served.status == 200
    assert not any(each.done() for each in silent)
    for answer in await asyncio.gather(*silent):
        assert (answer.status, answer.code) == (504, "upstream_timeout")
        row = await gateway.row_of(answer.request_id)
        assert (row["status"], row["cost_nano_usd"], row["completion_tokens"]) == ("error", 0, 0)
        assert {each["outcome"] for each in await attempts(gateway, answer.request_id)} == {"timeout"}
    await upstream.until(lambda _: upstream.running == 0)


async def test_a_stream_that_falls_silent_ends_with_an_error_event_and_is_settled_from_the_last_count(
    gateway: Deployment, upstream: Upstream, impatient: str
) -> None:
    seen = len(upstream.records)
    body = {**chat("[[tokens=20 fault=stall at=6]]", stream=True), "model": impatient}
    answer = await gateway.ask("POST", CHAT, body, key=gateway.admin_key)
    *events, last = answer.events()
    assert last["error"]["code"] == "upstream_timeout"
    assert sum(bool(each["choices"][0]["delta"].get("content")) for each in events) == 6
    row = await gateway.row_of(answer.request_id)
    assert (row["status"], row["completion_tokens"], row["usage_source"]) == ("error", 6, "counted")
    # Nobody told what the prompt came to: it is not free for that.
    assert row["prompt_tokens"] == row["estimated_prompt_tokens"] > 0
    await upstream.until(lambda records: records[seen].ended != "open")


@pytest.mark.parametrize("fault", ["fail=503", "fault=reset at=start"], ids=["refused", "reset"])
async def test_an_upstream_that_fails_k_times_leaves_k_attempts_that_cost_nothing_and_one_that_adds_up(
    gateway: Deployment, upstream: Upstream, fault: str
) -> None:
    name = f"patient-{len(fault)}"
    # Circuits are another test's.
    entity = external(f"{upstream.url}/v1", failures=100)
    endpoint = {"name": name, "calling": {"retries": 3}, "served_entities": [entity]}
    await gateway.administer("POST", "/endpoints", endpoint)
    for failures in range(4):
        seen = len(upstream.records)
        times = f"{fault} times={failures}" if failures else ""
        body = {**chat(f"[[tokens=7 {times}]]", stream=failures % 2 == 1), "model": name}
        answer = await gateway.ask("POST", CHAT, body, key=gateway.admin_key)
        assert answer.status == 200, answer
        tried = await attempts(gateway, answer.request_id)
        assert [each["outcome"] for each in tried] == ["error"] * failures + ["ok"]
        assert [each["cost_nano_usd"] for each in tried[:-1]] == [0] * failures
        told = upstream.records[seen:]
        assert len(told) == failures + 1
        assert {each.request_id for each in told} == {answer.request_id}
        assert sum(each["completion_tokens"] for each in tried) == sum(each.emitted for each in told) == 7
        rows = await gateway.query(
            "SELECT * FROM gateway.requests WHERE request_id = $1::uuid", answer.request_id
        )
        assert [(row["completion_tokens"], row["attempts"], row["status"]) for row in rows] == [
            (7, failures + 1, "ok")
        ]
        assert rows[0]["cost_nano_usd"] == tried[-1]["cost_nano_usd"]


async def test_failures_that_tell_what_they_used_add_up_to_the_oracle_in_every_book(
    gateway: Deployment, upstream: Upstream, postgres_server: EmbeddedPostgres, database_name: str
) -> None:
    draw = random.Random(11)
    entities = [
        {
            **external(f"{upstream.url}/v1", failures=100),
            "name": f"m{at}",
            "traffic_percent": 0 if at else 100,
        }
        | ({"fallback_position": at} if at else {})
        for at in range(4)
    ]
    endpoint = {"name": "telling", "calling": {"retries": 0}, "served_entities": entities}
    made = await gateway.administer("POST", "/endpoints", endpoint)
    prices = {
        each["id"]: dict.fromkeys(
            ("input", "cache_read", "cache_write", "output", "reasoning"), (at + 1) * 10**8 + at
        )
        | {"per_request": at}
        for at, each in enumerate(made["served_entities"])
    }
    for entity_id, price in prices.items():
        await gateway.administer("POST", "/prices/", {"served_entity_id": entity_id, **price})
    user = {"scope": "user", "subject_id": gateway.ids["bulk"]}
    grant = {"grantee_kind": "user", "grantee_id": gateway.ids["bulk"], "level": "CAN_QUERY"}
    await gateway.administer("PUT", f"/endpoints/{made['id']}/grants", grant)
    budget = await gateway.administer("POST", "/budgets", {**user, "period": "once", "usd": "100"})
    # Every number of failures, plain and streamed, through both ways of reading; which failures is drawn.
    kinds = ["fail=500 spent={}", "fail=529 spent={}", "fail=503", "fail=429 spent={}"]
    calls: list[tuple[str, list[OracleRecord]]] = []
    for number in range(20):
        failures, stream, path = number % 5, number // 5 % 2 == 1, CHAT if number < 10 else "/v1/messages"
        odd = ["fail=200 spent={}"] + (["fault=error_event at=headers spent={}"] if stream else [])
        scripts = [draw.choice([*kinds, *odd]).format(draw.randint(0, 200)) for _ in range(failures)]
        if number == 4:
            # Of a request that is refused as invalid nothing else is asked.
            scripts = ["fail=500 spent=3", "fail=400 spent=4"]
        failing = failures == 4
        scripts = scripts if failing else [*scripts, f"tokens={draw.randint(1, 9)}"]
        seen = len(upstream.records)
        upstream.scripts.program(*map(parse_script, scripts))
        body = chat("a b c", model="telling", stream=stream)
        answer = await gateway.ask("POST", path, body, key=gateway.keys["bulk"])
        assert (answer.status == 200) is not failing, (scripts, answer)
        records = upstream.records[seen:]
        assert len(records) == len(scripts)
        told = any(each.told for each in records)
        assert not failing or (b"Nothing was charged" not in answer.body) is told or answer.status == 400, (
            answer
        )
        calls.append((answer.request_id, records))
    await gateway.drained()
    total = 0
    counted: list[tuple[int, int]] = []
    for request_id, records in calls:
        tried = await attempts(gateway, request_id)
        row = await gateway.row_of(request_id)
        oracle = [
            (each.prompt_tokens if each.told or each.ended == COMPLETE else 0, each.emitted)
            for each in records
        ]
        assert [(each["prompt_tokens"], each["completion_tokens"]) for each in tried] == oracle, tried
        for each in tried:
            price, tokens = prices[each["entity_id"]], each["prompt_tokens"] + each["completion_tokens"]
            costs = -(-tokens * price["input"] // 10**6) + price["per_request"] if tokens else 0
            assert (each["cost_nano_usd"], each["borne"]) == (costs, True), each
        assert (row["prompt_tokens"], row["completion_tokens"]) == tuple(map(sum, zip(*oracle, strict=True)))
        assert row["cost_nano_usd"] == sum(each["cost_nano_usd"] for each in tried)
        assert row["attempts"] == len(records)
        (money,) = [each for each in json.loads(row["charges"]) if each["limit"] == budget["id"]]
        assert money["actual"] == row["cost_nano_usd"]
        total += row["cost_nano_usd"]
        counted += oracle
    # The budget is of the user's other calls of this file too.
    (own,) = await gateway.query(
        "SELECT sum(cost_nano_usd)::int8 AS cost FROM gateway.requests WHERE principal_id = $1",
        gateway.ids["bulk"],
    )
    (balance,) = (await gateway.administer("GET", f"/budgets/{budget['id']}/balance"))["items"]
    assert (balance["spent_nano_usd"], balance["reserved_nano_usd"]) == (own["cost"], 0)
    told = await gateway.administer("GET", f"/effective?endpoint=telling&principal={gateway.ids['bulk']}")
    assert [each["used"] for each in told["rules"] if each["id"] == budget["id"]] == [own["cost"]]
    owner = await asyncpg.connect(postgres_server.url("postgres", database_name))
    try:
        view = await owner.fetchrow(
            "SELECT sum(cost_nano_usd)::int8 AS cost, sum(input_token_count + output_token_count)::int8 AS tokens,"
            " count(*) AS calls FROM serving.endpoint_usage WHERE endpoint_name = 'telling'"
        )
        checks = await check_books(owner, datetime.now(UTC))
    finally:
        await owner.close()
    assert view is not None
    emitted = sum(prompt + completion for prompt, completion in counted)
    assert (view["cost"], view["tokens"], view["calls"]) == (total, emitted, len(calls))
    assert not [each for each in checks if each.differences], checks


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_an_upstream_without_its_tls_is_passed_over_and_the_next_entity_answers(
    gateway: Deployment, upstream: Upstream, stream: bool
) -> None:
    untrusted = external(f"https://127.0.0.1:{upstream.port}/v1")
    sound = {**external(f"{upstream.url}/v1"), "name": "n", "traffic_percent": 0, "fallback_position": 1}
    for name, entities in (("no-tls", [untrusted]), ("no-tls-first", [untrusted, sound])):
        if not stream:
            await gateway.administer("POST", "/endpoints", {"name": name, "served_entities": entities})
        body = {**chat("[[tokens=3]]", stream=stream), "model": name}
        answer = await gateway.ask("POST", CHAT, body, key=gateway.admin_key)
        assert answer.status == (502 if name == "no-tls" else 200), answer
        tried = await attempts(gateway, answer.request_id)
        assert (tried[0]["outcome"], tried[0]["error_code"]) == ("error", "upstream_unreachable")
        assert tried[-1]["outcome"] == ("error" if name == "no-tls" else "ok")
        assert not tried[0]["cost_nano_usd"]


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_hundred_mebibytes_in_one_event_cost_no_more_memory_than_an_event_may(
    gateway: Deployment, upstream: Upstream, stream: bool
) -> None:
    (worker,) = gateway.workers()
    await gateway.ask("POST", CHAT, chat("[[tokens=3]]", stream=stream), key=gateway.keys["bulk"])
    before = peak_memory(worker)
    script = f"[[tokens=20 delay=2ms fault=huge at=3 huge_bytes={100 << 20}]]"
    answer = await gateway.ask("POST", CHAT, chat(script, stream=stream), key=gateway.keys["bulk"])
    if stream:
        assert answer.status == 200
        assert "error" in answer.events()[-1]
    else:
        # A whole answer may have less than that.
        assert answer.status == 502
    # An event may have 8 MiB, a whole answer more; both are copied while they are read, and none is a hundred.
    assert peak_memory(worker) - before < 72 << 20
    assert (await gateway.row_of(answer.request_id))["status"] == "error"


def peak_memory(pid: int) -> int:
    """The most that a process ever held, in bytes."""
    with open(f"/proc/{pid}/status") as file:
        (told,) = [line.split()[1] for line in file if line.startswith("VmHWM")]
    return int(told) << 10


@pytest.mark.parametrize("path", [CHAT, INVOKE])
async def test_comments_alone_are_no_answer(gateway: Deployment, path: str) -> None:
    body = chat("[[tokens=20 delay=2ms fault=comments_only]]", stream=True)
    answer = await gateway.ask("POST", path, body, key=gateway.keys["bulk"])
    assert answer.status == (502 if path == CHAT else 500)
    row = await gateway.row_of(answer.request_id)
    assert (row["status"], row["cost_nano_usd"]) == ("error", 0)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_usage_of_zero_is_kept_as_zero(gateway: Deployment, stream: bool) -> None:
    body = chat("[[tokens=12 delay=1ms usage=zero]]", stream=stream)
    answer = await gateway.ask("POST", CHAT, body, key=gateway.keys["bulk"])
    assert answer.status == 200
    row = await gateway.row_of(answer.request_id)
    assert (row["status"], row["usage_source"]) == ("ok", "reported")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (0, 0)
    LIED_TO.add(answer.request_id)


@pytest.mark.parametrize(
    "script", ["tokens=20 fault=bad_json", "tokens=20 fault=bad_utf8", "tokens=20 fault=bad_chunk"]
)
async def test_a_plain_answer_that_is_no_answer_is_502(gateway: Deployment, script: str) -> None:
    answer = await gateway.ask("POST", CHAT, chat(f"[[{script}]]"), key=gateway.keys["bulk"])
    assert (answer.status, answer.code) == (502, "upstream_failed")


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_counts_that_are_told_as_texts_are_charged_like_any(gateway: Deployment, stream: bool) -> None:
    body = chat("[[tokens=12 delay=1ms usage=text]]", stream=stream)
    answer = await gateway.ask("POST", CHAT, body, key=gateway.keys["bulk"])
    assert answer.status == 200
    row = await gateway.row_of(answer.request_id)
    assert (row["status"], row["usage_source"], row["completion_tokens"]) == ("ok", "reported", 12)


@pytest.mark.parametrize("usage", ["missing", "null", "negative", "absurd", "wrong"])
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
    assert row["prompt_tokens"] > 0
    (tried,) = await attempts(gateway, answer.request_id)
    doubted = usage in ("negative", "absurd")
    assert tried["reason"] == (Doubt.IMPOSSIBLE.said if doubted else None)
    if doubted:
        found = (await gateway.ask("GET", "/metrics")).body.decode()
        assert f'weighbridge_usage_doubted_total{{doubt="impossible",endpoint="{ENDPOINT}"}}' in found


@pytest.mark.parametrize(
    ("usage", "stream", "charged", "doubt"),
    [
        ("few", True, 20, Doubt.FEW),
        ("many", True, 6_000, Doubt.OUTPUT),
        ("many", False, 6_000, Doubt.OUTPUT),
        # Twice as many tokens as deltas may be true: several can be in one word.
        ("disagree", True, 120, None),
    ],
)
async def test_a_usage_that_disagrees_with_what_came_is_charged_as_told_marked_and_counted(
    gateway: Deployment, usage: str, stream: bool, charged: int, doubt: Doubt | None
) -> None:
    body = chat(f"[[tokens=60 usage={usage}]]", stream=stream, max_tokens=8_000)
    answer = await gateway.ask("POST", CHAT, body, key=gateway.keys["bulk"])
    assert answer.status == 200
    row = await gateway.row_of(answer.request_id)
    assert (row["status"], row["usage_source"], row["completion_tokens"]) == ("ok", "reported", charged)
    LIED_TO.add(answer.request_id)
    (tried,) = await attempts(gateway, answer.request_id)
    assert tried["reason"] == (None if doubt is None else doubt.said)
    if doubt is None:
        return
    found = (await gateway.ask("GET", "/metrics")).body.decode()
    assert f'weighbridge_usage_doubted_total{{doubt="{doubt}",endpoint="{ENDPOINT}"}}' in found


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
async def test_a_usage_of_twice_what_the_words_can_be_is_charged_as_told_marked_and_counted(
    gateway: Deployment, upstream: Upstream, stream: bool
) -> None:
    name = f"dear-{stream}".lower()
    endpoint = {"name": name, "served_entities": [external(f"{upstream.url}/v1")]}
    await gateway.administer("POST", "/endpoints", endpoint)
    words = " ".join(["the cat sat on a mat and so it did as well"] * 5)
    for usage, doubt in (("disagree", Doubt.MANY), ("true", None)):
        body = {**chat(f'[[text="{words}" usage={usage}]]', stream=stream, max_tokens=800), "model": name}
        answer = await gateway.ask("POST", CHAT, body, key=gateway.admin_key)
        assert answer.status == 200, answer
        row = await gateway.row_of(answer.request_id)
        told = 60 if doubt is None else 120
        assert (row["status"], row["usage_source"], row["completion_tokens"]) == ("ok", "reported", told)
        (tried,) = await attempts(gateway, answer.request_id)
        assert tried["reason"] == (None if doubt is None else doubt.said)
        if doubt is not None:
            LIED_TO.add(answer.request_id)
    found = (await gateway.ask("GET", "/metrics")).body.decode()
    assert f'weighbridge_usage_doubted_total{{doubt="many",endpoint="{name}"}} 1' in found


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
        or str(row["request_id"]) in LIED_TO
        or (str(row["request_id"]) not in reached and not row["cost_nano_usd"] and row["status"] == "error")
    }
    found = reconcile(
        [row for row in rows if str(row["request_id"]) not in mute],
        [each for each in upstream.records if each.request_id not in mute],
        [],
    )
    assert not found, report(found)
