"""The load client straight against the upstream: what it saw is what the upstream counted."""

from __future__ import annotations

import asyncio
from itertools import islice
from pathlib import Path

import msgspec
import pytest

from tests.faults.journal import OracleRecord
from tests.faults.load import ONLY_PLAIN, Mix, calls, drive, summary
from tests.faults.reconcile import reconcile, report
from tests.faults.script import parse_script
from tests.faults.transcript import Transcript, read_transcripts, write_transcripts
from tests.faults.upstream import Upstream
from tests.faults.wire import AFTER_DONE, BEFORE_FIRST, MID_STREAM, NEVER, Client, Spec, Target


def spec(script: str, *, stream: bool, leave: str = NEVER, leave_at: float = 0.0, call: int = 0) -> Spec:
    body: dict[str, object] = {"model": "m", "messages": [{"role": "user", "content": f"[[{script}]]"}]}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return Spec(call, msgspec.json.encode(body), stream, leave=leave, leave_at=leave_at)


async def one(made: Spec, **options: float) -> tuple[Transcript, OracleRecord]:
    async with Upstream() as upstream:
        client = Client(Target(port=upstream.port), **options)
        transcript = await client.call(made)
        client.close()
        await upstream.until(lambda records: records[-1].ended != "open")
        return transcript, upstream.records[-1]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_whole_answer_is_complete_with_its_usage(stream: bool) -> None:
    seen, record = await one(spec("tokens=5 slice=3", stream=stream))
    assert (seen.how, seen.status, seen.acknowledged) == ("complete", 200, True)
    assert seen.delivered == seen.usage_completion == record.emitted == 5
    assert seen.frames == (5 if stream else 0)
    assert seen.finish_reason == "stop"


async def test_leaving_mid_stream_counts_the_frames_that_came() -> None:
    seen, record = await one(spec("tokens=90 delay=2ms", stream=True, leave=MID_STREAM, leave_at=3))
    assert (seen.how, seen.delivered) == ("left", 3)
    assert record.ended == "peer_closed"
    assert 3 <= record.emitted < 90


async def test_leaving_before_the_first_token_delivers_none() -> None:
    seen, record = await one(spec("tokens=9 first=200ms", stream=True, leave=BEFORE_FIRST, leave_at=0.05))
    assert (seen.how, seen.delivered, seen.acknowledged) == ("left", 0, True), "the headers had come"
    assert (record.ended, record.emitted) == ("peer_closed", 0)
    seen, _ = await one(spec("tokens=9 first=200ms", stream=False, leave=BEFORE_FIRST, leave_at=0.05))
    assert (seen.how, seen.acknowledged) == ("left", False)


async def test_leaving_after_done_is_a_complete_call() -> None:
    seen, record = await one(spec("tokens=4", stream=True, leave=AFTER_DONE))
    assert (seen.how, record.ended) == ("complete", "complete")


@pytest.mark.parametrize(
    ("script", "how"),
    [
        ("fail=429", "refused"),
        ("fault=reset at=start", "unreachable"),
        ("fault=reset at=2 delay=2ms", "cut"),
        ("fault=close at=2", "cut"),
        ("fault=no_done at=2", "cut"),
        ("fault=error_event at=2", "error"),
        ("fault=bad_json at=2", "error"),
        ("fault=bad_chunk at=2", "cut"),
        ("fault=stall at=2", "timeout"),
    ],
)
async def test_every_way_to_end_has_its_name(script: str, how: str) -> None:
    seen, _ = await one(spec(script, stream=True), timeout=0.2)
    assert seen.how == how
    assert seen.acknowledged == (how != "unreachable")


async def test_nobody_listening_is_unreachable() -> None:
    seen = await Client(Target(port=1)).call(spec("", stream=False))
    assert (seen.how, seen.acknowledged, seen.status) == ("unreachable", False, 0)


def test_a_seed_repeats_its_calls_from_any_start() -> None:
    whole = list(islice(calls(seed=5, keys=["a", "b"]), 40))
    assert whole == list(islice(calls(seed=5, keys=["a", "b"]), 40))
    assert whole[30:] == list(islice(calls(seed=5, keys=["a", "b"], first=30), 10))
    assert whole != list(islice(calls(seed=6, keys=["a", "b"]), 40))
    assert {made.leave for made in whole} == {NEVER, BEFORE_FIRST, MID_STREAM, AFTER_DONE}


async def test_mixed_traffic_and_the_oracle_agree(tmp_path: Path) -> None:
    mix = Mix(tokens=(1, 30), delays_ms=(0, 1))
    async with Upstream() as upstream:
        upstream.scripts.default = parse_script("tokens=3")
        seen = await drive(Target(port=upstream.port), calls(seed=11, mix=mix), count=150, concurrency=16)
        await upstream.until(lambda records: all(record.ended != "open" for record in records))
        assert [transcript.call for transcript in seen] == list(range(150))
        # The upstream gives no ids; here arrival is matched by the call number in the prompt.
        received = [msgspec.json.decode(request.body) for request in upstream.received]
        number = [int(body["messages"][0]["content"].split()[1]) for body in received]
        for transcript in seen:
            transcript.request_id = f"call-{transcript.call}"
        for at, record in zip(number, upstream.records, strict=True):
            record.request_id = f"call-{at}"
    rows = [
        {
            "request_id": record.request_id,
            "status": "ok" if record.ended == "complete" else "cut",
            "prompt_tokens": record.prompt_tokens,
            "completion_tokens": record.emitted,
            "usage_source": "reported",
        }
        for record in upstream.records
    ]
    found = reconcile(rows, upstream.records, seen)
    assert not found, report(found)
    assert {transcript.how for transcript in seen} >= {"complete", "left"}
    write_transcripts(tmp_path / "t.jsonl", seen)
    assert read_transcripts(tmp_path / "t.jsonl") == seen
    assert summary(seen).startswith("150 calls")


async def test_a_rate_is_kept_whatever_the_answers_take() -> None:
    async with Upstream(default=parse_script("first=100ms")) as upstream:
        loop = asyncio.get_running_loop()
        began = loop.time()
        seen = await drive(Target(port=upstream.port), calls(seed=1, mix=ONLY_PLAIN), count=40, rate=400)
        assert len(seen) == 40
        assert loop.time() - began < 2
