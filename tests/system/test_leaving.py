"""A client that leaves stops the engine within a second, frees what it held, and pays for what it was sent."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from tests.faults.journal import COMPLETE, PEER_CLOSED
from tests.faults.reconcile import reconcile, report
from tests.faults.upstream import Upstream
from tests.faults.wire import AFTER_DONE, BEFORE_FIRST, MID_STREAM, Client, Spec
from tests.system.asking import request_bytes
from tests.system.deployment import Deployment, Person, chat, limit

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def workers() -> int:
    return 2


@pytest.fixture(scope="module")
def people() -> dict[str, Person]:
    one = {"metric": "concurrent_requests", "amount": 1, "window_kind": "none"}
    return {"single": Person((one,)), "slow": Person(), "tight": Person((limit("total_tokens", 700),))}


@pytest.mark.parametrize("abrupt", [False, True], ids=["with FIN", "with RST"])
@pytest.mark.parametrize(
    ("stream", "leave", "at", "script"),
    [
        (True, BEFORE_FIRST, 0.3, "tokens=50 first=20s"),
        (True, MID_STREAM, 10, "tokens=2000 delay=5ms"),
        (False, BEFORE_FIRST, 0.3, "tokens=50 first=20s"),
    ],
    ids=["before the first token", "mid-stream", "a plain call"],
)
async def test_a_client_that_leaves_stops_the_upstream_within_a_second_and_the_row_is_cut(
    gateway: Deployment, upstream: Upstream, stream: bool, leave: str, at: float, script: str, abrupt: bool
) -> None:
    seen = len(upstream.records)
    body = json.dumps(chat(f"[[{script}]]", stream=stream, max_tokens=2000)).encode()
    client = Client(gateway.target)
    transcript = await client.call(
        Spec(
            call=1,
            body=body,
            stream=stream,
            key=gateway.keys["bulk"],
            leave=leave,
            leave_at=at,
            abrupt=abrupt,
        )
    )
    left = time.time()
    assert transcript.how == "left"
    await upstream.until(lambda records: len(records) > seen and records[seen].ended == PEER_CLOSED, 5.0)
    record = upstream.records[seen]
    assert record.peer_closed_at is not None
    assert record.peer_closed_at - left < 1.0
    assert upstream.running == 0
    assert record.request_id is not None
    row = await gateway.row_of(record.request_id)
    assert (row["status"], row["stopped_by"]) == ("cut", "client")
    assert transcript.delivered <= row["completion_tokens"] <= record.emitted
    assert not (found := reconcile([row], [record], [transcript])), report(found)


async def test_what_a_provider_bills_whole_is_read_to_its_end_for_nobody(
    gateway: Deployment, upstream: Upstream
) -> None:
    entity = {
        "name": "m",
        "kind": "external",
        "provider": "openai-compatible",
        "model": "m",
        "base_url": f"{upstream.url}/v1",
        "calling": {"drain": True},
    }
    await gateway.administer("POST", "/endpoints", {"name": "billed", "served_entities": [entity]})
    seen = len(upstream.records)
    # More than one slice, so that what is read for nobody is topped up as well.
    asked = {**chat("[[tokens=400 delay=3ms ignore_close]]", stream=True, max_tokens=500), "model": "billed"}
    spec = Spec(
        call=1,
        body=json.dumps(asked).encode(),
        stream=True,
        key=gateway.admin_key,
        leave=MID_STREAM,
        leave_at=10,
        abrupt=True,
    )
    transcript = await Client(gateway.target).call(spec)
    assert transcript.how == "left"
    await upstream.until(lambda records: len(records) > seen and records[seen].ended == COMPLETE, 20.0)
    record = upstream.records[seen]
    assert record.request_id is not None
    row = await gateway.row_of(record.request_id)
    assert (row["status"], row["stopped_by"], row["error_code"]) == ("cut", "client", "client_left")
    assert transcript.delivered < row["completion_tokens"] == record.emitted == 400
    assert row["usage_source"] == "reported"


async def test_a_client_that_leaves_after_the_end_had_all_of_it(
    gateway: Deployment, upstream: Upstream
) -> None:
    for stream in (False, True):
        seen = len(upstream.records)
        body = json.dumps(chat("[[tokens=20 delay=1ms]]", stream=stream, max_tokens=30)).encode()
        client = Client(gateway.target)
        await client.call(
            Spec(call=1, body=body, stream=stream, key=gateway.keys["bulk"], leave=AFTER_DONE, abrupt=True)
        )
        record = upstream.records[seen]
        assert record.ended == COMPLETE
        assert record.request_id is not None
        row = await gateway.row_of(record.request_id)
        assert (row["status"], row["completion_tokens"], row["usage_source"]) == ("ok", 20, "reported")


async def test_a_place_that_a_leaving_client_held_is_free_again(
    gateway: Deployment, upstream: Upstream
) -> None:
    key = gateway.keys["single"]
    client = Client(gateway.target)
    body = json.dumps(chat("[[tokens=500 delay=5ms]]", stream=True, max_tokens=600)).encode()
    for _ in range(5):
        await client.call(Spec(call=1, body=body, stream=True, key=key, leave=MID_STREAM, leave_at=3))
        async with asyncio.timeout(2.0):
            while (await gateway.ask("POST", CHAT, chat("[[tokens=1]]"), key=key)).status != 200:
                await asyncio.sleep(0.02)


async def test_a_second_call_beyond_the_concurrency_is_refused_while_the_first_runs(
    gateway: Deployment, upstream: Upstream
) -> None:
    key = gateway.keys["single"]
    seen = len(upstream.records)
    first = asyncio.create_task(gateway.ask("POST", CHAT, chat("[[tokens=1 first=1s]]"), key=key))
    await upstream.until(lambda records: len(records) > seen)
    refused = await gateway.ask("POST", CHAT, chat("[[tokens=1]]"), key=key)
    assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
    assert refused.headers["retry-after"] == "1"
    assert (await first).status == 200
    assert len(upstream.records) == seen + 1


async def test_a_refused_top_up_ends_the_stream_with_length_usage_and_done(
    gateway: Deployment, upstream: Upstream
) -> None:
    """Of 700 tokens the first grant takes 256 and the prompt; what is delivered was granted, and nothing more."""
    seen = len(upstream.records)
    body = chat(
        "[[tokens=2000 delay=1ms]]", stream=True, max_tokens=2000, stream_options={"include_usage": True}
    )
    answer = await gateway.ask("POST", CHAT, body, key=gateway.keys["tight"])
    assert answer.status == 200
    *events, done = answer.events()
    assert done == "[DONE]"
    usage = events[-1]["usage"]
    last = events[-2]
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["weighbridge"]["stopped_by"] == "limit"
    assert last["weighbridge"]["limit"] == gateway.ids["tight/total_tokens"]
    assert not any("error" in event for event in events)
    await upstream.until(lambda records: records[seen].ended != "open", 2.0)
    assert upstream.records[seen].ended == PEER_CLOSED
    row = await gateway.row_of(answer.request_id)
    assert (row["status"], row["stopped_by"], row["finish_reason"]) == ("cut", "limit", "length")
    assert row["completion_tokens"] == usage["completion_tokens"] <= row["granted_output_tokens"]
    assert row["granted_output_tokens"] + row["estimated_prompt_tokens"] <= 700
    assert upstream.records[seen].emitted - row["completion_tokens"] <= 256


async def test_a_client_that_reads_slowly_stops_the_upstream_instead_of_filling_memory(
    gateway: Deployment, upstream: Upstream
) -> None:
    before = sum(resident(pid) for pid in gateway.workers())
    readers = []
    for _ in range(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1024)
        body = chat("[[tokens=40000]]", stream=True, max_tokens=100_000)
        writer.write(request_bytes("POST", CHAT, body, key=gateway.keys["slow"]))
        await reader.readline()
        readers.append((reader, writer))
    await asyncio.sleep(1.0)
    grown = sum(resident(pid) for pid in gateway.workers()) - before
    print(f"20 stalled readers of some 10 MB each cost {grown >> 20} MiB")
    assert grown < 60 << 20
    for _, writer in readers:
        writer.transport.abort()
    async with asyncio.timeout(5):
        while upstream.running:
            await asyncio.sleep(0.02)


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


async def test_the_books_balance_after_all_of_this(gateway: Deployment, upstream: Upstream) -> None:
    await gateway.drained()
    rows = await gateway.ledger_rows()
    # What lies in the buffers of a connection that nobody reads was emitted, and seen by nobody.
    slow = {str(row["request_id"]) for row in rows if row["principal_name"] == "slow"}
    found = reconcile(
        [row for row in rows if str(row["request_id"]) not in slow],
        [record for record in upstream.records if record.request_id not in slow],
        [],
    )
    assert not found, report(found)
