"""The scriptable upstream, byte by byte: each fault is what it says, and the oracle counts it truly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httptools
import pytest

from tests.faults.ask import count_prompt_tokens
from tests.faults.journal import OracleRecord, read_journal
from tests.faults.script import BadScript, Script, parse_script
from tests.faults.upstream import Upstream

CHAT = "/v1/chat/completions"
USAGE = {"include_usage": True}
CONTINUOUS = {"include_usage": True, "continuous_usage_stats": True}


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as running:
        yield running


class Wire:
    """One raw connection; what a test reads is what was on the wire."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, upstream: Upstream) -> Wire:
        return cls(*await asyncio.open_connection("127.0.0.1", upstream.port, limit=2**25))

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> None:
        payload = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "host: x", f"content-length: {len(payload)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + payload)

    async def rest(self) -> bytes:
        async with asyncio.timeout(5):
            return await self.reader.read(-1)


class Parsed:
    """A response and the pieces its body came in."""

    def __init__(self, raw: bytes) -> None:
        self.headers: dict[str, str] = {}
        self.pieces: list[bytes] = []
        self.complete = False
        parser = httptools.HttpResponseParser(self)
        parser.feed_data(raw)
        self.status = parser.get_status_code()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.pieces.append(body)

    def on_message_complete(self) -> None:
        self.complete = True

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        lines = [line for line in self.body.decode().splitlines() if line.startswith("data: ")]
        return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


def chat(content: str, **more: Any) -> dict[str, Any]:
    return {"model": "mixtral-demo", "messages": [{"role": "user", "content": content}], **more}


async def post(upstream: Upstream, body: Any, path: str = CHAT, **headers: str) -> Parsed:
    wire = await Wire.open(upstream)
    wire.send("POST", path, body, connection="close", **headers)
    raw = await wire.rest()
    wire.writer.close()
    return Parsed(raw)


async def get(upstream: Upstream, path: str) -> Parsed:
    wire = await Wire.open(upstream)
    wire.send("GET", path, connection="close")
    return Parsed(await wire.rest())


def last(upstream: Upstream) -> OracleRecord:
    return upstream.records[-1]


async def test_a_plain_answer_has_vllms_fields_in_vllms_order(upstream: Upstream) -> None:
    answer = await post(upstream, chat("one two [[tokens=3]]"), x_request_id="abc")
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json) == [
        "id", "object", "created", "model", "choices", "service_tier", "system_fingerprint", "usage",
        "prompt_logprobs", "prompt_token_ids", "prompt_text", "kv_transfer_params", "ec_transfer_params",
        "metrics",
    ]  # fmt: skip
    choice = answer.json["choices"][0]
    assert list(choice["message"]) == [
        "role", "content", "refusal", "annotations", "audio", "function_call", "reasoning",
    ]  # fmt: skip
    assert (choice["message"]["content"], choice["finish_reason"]) == ("w1 w2 w3", "stop")
    assert answer.json["id"] == "chatcmpl-abc"
    assert answer.json["usage"] == {
        "prompt_tokens": 3, "total_tokens": 6, "completion_tokens": 3,
        "prompt_tokens_details": None, "completion_tokens_details": None,
    }  # fmt: skip
    record = last(upstream)
    assert (record.request_id, record.prompt_tokens, record.emitted, record.ended) == (
        "abc",
        3,
        3,
        "complete",
    )


async def test_a_stream_begins_with_the_role_and_ends_with_done(upstream: Upstream) -> None:
    answer = await post(upstream, chat("[[tokens=3]]", stream=True))
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    role, *tokens, done = answer.events
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [event["choices"][0]["delta"]["content"] for event in tokens] == ["w1", " w2", " w3"]
    assert [event["choices"][0]["finish_reason"] for event in tokens] == [None, None, "stop"]
    assert done == "[DONE]"
    assert not any("usage" in event for event in [role, *tokens])


async def test_usage_comes_last_without_choices_only_when_asked_for(upstream: Upstream) -> None:
    answer = await post(upstream, chat("[[tokens=2 cached=1]]", stream=True, stream_options=USAGE))
    *others, final, _ = answer.events
    assert final["choices"] == []
    assert final["usage"] == {
        "prompt_tokens": 2, "total_tokens": 4, "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 1},
    }  # fmt: skip
    assert list(final)[-2:] == ["usage", "system_fingerprint"]
    assert not any("usage" in event for event in others)


async def test_continuous_usage_counts_up_chunk_by_chunk(upstream: Upstream) -> None:
    answer = await post(upstream, chat("[[tokens=3]]", stream=True, stream_options=CONTINUOUS))
    counts = [event["usage"]["completion_tokens"] for event in answer.events[:-1]]
    assert counts == [0, 1, 2, 3, 3]
    assert answer.events[1]["usage"] == {
        "prompt_tokens": 1, "total_tokens": 2, "completion_tokens": 1, "completion_tokens_details": None,
    }  # fmt: skip
    only = await post(
        upstream, chat("[[tokens=1]]", stream=True, stream_options={"continuous_usage_stats": True})
    )
    assert "usage" in only.events[0], "include_usage is true by default once stream_options is there"


async def test_text_completions_are_served_plain_and_streamed(upstream: Upstream) -> None:
    ask = {"model": "m", "prompt": "a b [[tokens=2]]"}
    plain = await post(upstream, ask, "/v1/completions")
    assert plain.json["choices"][0]["text"] == "w1 w2"
    assert plain.json["usage"]["prompt_tokens"] == 3
    stream = await post(upstream, {**ask, "stream": True, "stream_options": USAGE}, "/v1/completions")
    assert [event["choices"][0]["text"] for event in stream.events[:2]] == ["w1", " w2"]
    assert stream.events[2]["usage"]["completion_tokens"] == 2
    assert stream.events[0]["object"] == "text_completion"


async def test_embeddings_are_the_same_for_the_same_text(upstream: Upstream) -> None:
    answer = await post(upstream, {"model": "e", "input": ["a b", "c", "a b"]}, "/v1/embeddings")
    first, second, third = [item["embedding"] for item in answer.json["data"]]
    assert first == third != second
    assert len(first) == 8
    assert answer.json["usage"]["prompt_tokens"] == 5
    assert (last(upstream).emitted, last(upstream).ended) == (0, "complete")


async def test_max_tokens_cuts_the_script_and_finishes_with_length(upstream: Upstream) -> None:
    answer = await post(upstream, chat("[[tokens=64]]", max_tokens=5))
    assert answer.json["choices"][0]["finish_reason"] == "length"
    assert answer.json["usage"]["completion_tokens"] == last(upstream).emitted == 5


async def test_n_choices_each_have_their_tokens(upstream: Upstream) -> None:
    answer = await post(upstream, chat("[[tokens=2]]", n=3, stream=True, stream_options=USAGE))
    indices = [event["choices"][0]["index"] for event in answer.events[3:-2]]
    assert indices == [0, 1, 2, 0, 1, 2]
    assert answer.events[-2]["usage"]["completion_tokens"] == last(upstream).emitted == 6


async def test_tool_calls_are_streamed_in_pieces_and_called_when_required(upstream: Upstream) -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("find", "book")]
    plain = await post(upstream, chat("[[tools=2]]", tools=tools))
    calls = plain.json["choices"][0]["message"]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["find", "book"]
    assert plain.json["choices"][0]["finish_reason"] == "tool_calls"
    one = await post(upstream, chat("[[tools=2]]", tools=tools, parallel_tool_calls=False))
    assert len(one.json["choices"][0]["message"]["tool_calls"]) == 1
    required = await post(upstream, chat("x", tools=tools, tool_choice="required", stream=True))
    deltas = [event["choices"][0]["delta"] for event in required.events[1:-1]]
    arguments = "".join(delta["tool_calls"][0]["function"]["arguments"] for delta in deltas)
    assert json.loads(arguments) == {"query": "q0", "limit": 0}
    named = {"type": "function", "function": {"name": "book"}}
    forced = await post(upstream, chat("x", tools=tools, tool_choice=named))
    assert forced.json["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "book"
    assert forced.json["choices"][0]["finish_reason"] == "stop"


async def test_structured_output_is_json_of_the_schema(upstream: Upstream) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "at": {"type": "integer"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = await post(upstream, chat("x", response_format=wanted))
    assert json.loads(answer.json["choices"][0]["message"]["content"]) == {"city": "w1", "at": 1}
    scripted = await post(upstream, chat("""[[json='{"a": [1, 2]}']]"""))
    assert json.loads(scripted.json["choices"][0]["message"]["content"]) == {"a": [1, 2]}


@pytest.mark.parametrize("status", [429, 500, 503, 529])
async def test_a_status_is_answered_with_its_headers_and_body(upstream: Upstream, status: int) -> None:
    answer = await post(upstream, chat(f"[[fail={status} retry_after=7]]"))
    assert (answer.status, answer.headers["retry-after"]) == (status, "7")
    assert answer.json["error"]["code"] == status
    assert (last(upstream).ended, last(upstream).emitted, last(upstream).status) == ("refused", 0, status)
    odd = await post(upstream, chat(f"[[fail={status} body='no json']]"))
    assert odd.body == b"no json"


async def test_a_failure_tells_what_it_used_where_the_script_wants_that(upstream: Upstream) -> None:
    for said, ended, stream in (
        ("fail=500 spent=5", "refused", False),
        ("fault=error_event at=headers spent=5", "truncated", True),
    ):
        answer = await post(upstream, chat(f"[[{said}]]", stream=stream))
        failed = answer.events[0] if stream else answer.json
        record = last(upstream)
        assert failed["error"]["code"] == 500
        assert (failed["usage"]["prompt_tokens"], failed["usage"]["completion_tokens"]) == (
            record.prompt_tokens,
            5,
        )
        assert (record.told, record.emitted, record.ended) == (True, 5, ended)
    assert "usage" not in (await post(upstream, chat("[[fail=500]]"))).json
    assert not last(upstream).told


async def test_only_the_first_k_attempts_of_a_call_fail(upstream: Upstream) -> None:
    statuses = [
        (await post(upstream, chat("[[fail=500 times=2]]"), x_request_id="r")).status for _ in range(3)
    ]
    assert statuses == [500, 500, 200]
    assert [record.emitted for record in upstream.journal.of("r")] == [0, 0, 16]


async def test_scripts_come_from_the_queue_then_the_message_then_the_model(upstream: Upstream) -> None:
    upstream.scripts.program(parse_script("tokens=1"), parse_script("tokens=2"))
    body = chat("[[tokens=3]]", model="m@tokens=4,delay=1ms")
    got = [(await post(upstream, body)).json["usage"]["completion_tokens"] for _ in range(3)]
    assert got == [1, 2, 3]
    assert (await post(upstream, chat("x", model="m@tokens=4"))).json["usage"]["completion_tokens"] == 4


async def test_a_script_that_is_not_understood_is_refused(upstream: Upstream) -> None:
    assert (await post(upstream, chat("[[fault=explode]]"))).status == 400
    assert (await post(upstream, chat("[[delay=fast]]"))).status == 400
    assert upstream.records == []
    with pytest.raises(BadScript, match="unknown word 'tokns'"):
        parse_script("tokns=3")
    assert parse_script("first=5ms delay=0.5s at=headers eos") == Script(
        first=0.005, delay=0.5, at=0, eos=True
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_a_reset_before_the_headers_leaves_not_one_byte(upstream: Upstream, stream: bool) -> None:
    wire = await Wire.open(upstream)
    wire.send("POST", CHAT, chat("[[fault=reset at=start]]", stream=stream))
    with pytest.raises(ConnectionResetError):
        await wire.rest()
    assert (last(upstream).ended, last(upstream).status, last(upstream).emitted) == ("reset", 0, 0)


async def test_a_reset_mid_stream_comes_after_exactly_so_many_tokens(upstream: Upstream) -> None:
    wire = await Wire.open(upstream)
    wire.send("POST", CHAT, chat("[[tokens=9 delay=1ms fault=reset at=3]]", stream=True))
    await wire.reader.readuntil(b" w3")
    with pytest.raises(ConnectionResetError):
        await wire.rest()
    assert (last(upstream).ended, last(upstream).emitted) == ("reset", 3)


async def test_headers_then_a_stall_sends_headers_and_nothing_more(upstream: Upstream) -> None:
    wire = await Wire.open(upstream)
    wire.send("POST", CHAT, chat("[[fault=stall at=headers]]", stream=True))
    assert (await wire.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(wire.reader.read(1), 0.05)
    assert upstream.running == 1
    wire.writer.close()
    await upstream.until(lambda records: records[-1].ended == "peer_closed")
    assert (upstream.running, last(upstream).emitted) == (0, 0)


async def test_a_stall_mid_stream_may_end_and_the_rest_arrives(upstream: Upstream) -> None:
    answer = await post(upstream, chat("[[tokens=4 fault=stall at=2 stall_for=20ms]]", stream=True))
    assert answer.complete
    assert len(answer.events) == 6
    late = await post(upstream, chat("[[tokens=4 fault=stall at=start stall_for=20ms]]"))
    assert late.json["usage"]["completion_tokens"] == 4


async def test_a_half_close_ends_without_done_and_without_the_last_chunk(upstream: Upstream) -> None:
    answer = await post(upstream, chat("[[tokens=5 fault=close at=2]]", stream=True))
    assert not answer.complete
    assert "[DONE]" not in answer.events
    assert (last(upstream).ended, last(upstream).emitted) == ("closed", 2)


async def test_a_body_may_end_well_formed_without_done(upstream: Upstream) -> None:
    answer = await post(upstream, chat("[[tokens=2 fault=no_done at=99]]", stream=True))
    assert answer.complete
    assert len(answer.events) == 3
    assert (last(upstream).ended, last(upstream).emitted) == ("truncated", 2)


async def test_an_error_event_looks_as_vllm_sends_it(upstream: Upstream) -> None:
    answer = await post(upstream, chat("[[fault=error_event at=1]]", stream=True))
    assert answer.events[-2]["error"]["code"] == 500
    assert answer.events[-1] == "[DONE]"


async def test_bad_events_stand_between_good_ones(upstream: Upstream) -> None:
    broken = await post(upstream, chat("[[tokens=2 fault=bad_utf8 at=1]]", stream=True))
    with pytest.raises(UnicodeDecodeError):
        broken.body.decode()
    assert broken.body.endswith(b"data: [DONE]\n\n")
    unparsable = await post(upstream, chat("[[tokens=2 fault=bad_json at=1]]", stream=True))
    assert b'"content":\n\n' in unparsable.body
    huge = await post(upstream, chat("[[tokens=2 fault=huge huge_bytes=300000]]", stream=True))
    assert max(len(piece) for piece in huge.body.split(b"\n\n")) > 300_000
    assert last(upstream).emitted == 2


async def test_a_huge_event_is_20_mib_by_default(upstream: Upstream) -> None:
    answer = await post(upstream, chat("[[tokens=1 fault=huge]]", stream=True))
    assert len(answer.body) > 20 * 2**20


async def test_plain_answers_can_be_broken_too(upstream: Upstream) -> None:
    for fault in ("bad_json", "bad_utf8"):
        answer = await post(upstream, chat(f"[[fault={fault}]]"))
        assert answer.complete
        with pytest.raises((json.JSONDecodeError, UnicodeDecodeError)):
            json.loads(answer.body.decode())
    short = await post(upstream, chat("[[fault=close at=1]]"))
    assert not short.complete
    assert short.body
    with pytest.raises(httptools.HttpParserError):
        await post(upstream, chat("[[fault=bad_chunk]]"))


async def test_headers_that_never_end_stop_when_the_peer_goes(upstream: Upstream) -> None:
    wire = await Wire.open(upstream)
    wire.send("POST", CHAT, chat("[[fault=endless_headers]]"))
    assert b"\r\n\r\n" not in await wire.reader.readexactly(20_000)
    wire.writer.close()
    await upstream.until(lambda records: records[-1].ended == "peer_closed")


@pytest.mark.parametrize("lines", ["crlf", "cr", "mixed"])
async def test_line_ends_change_and_the_events_stay(upstream: Upstream, lines: str) -> None:
    plain = await post(upstream, chat("[[tokens=3]]", stream=True), x_request_id="a")
    other = await post(upstream, chat(f"[[tokens=3 lines={lines}]]", stream=True), x_request_id="a")
    assert other.events[:-1] == plain.events[:-1]
    assert other.body != plain.body


async def test_a_sliced_stream_is_byte_identical_in_pieces_of_one(upstream: Upstream) -> None:
    whole = await post(upstream, chat("x [[tokens=3]]", stream=True), x_request_id="a")
    sliced = await post(upstream, chat("x [[tokens=3 slice=1]]", stream=True), x_request_id="a")
    assert sliced.body == whole.body
    assert {len(piece) for piece in sliced.pieces} == {1}
    slow = await post(upstream, chat("x [[tokens=3 slice=100 gap=1ms]]", stream=True), x_request_id="a")
    assert slow.body == whole.body
    assert last(upstream).emitted == 3


async def test_comments_stand_between_events_or_alone(upstream: Upstream) -> None:
    between = await post(upstream, chat("[[tokens=2 comments]]", stream=True))
    assert between.body.count(b": keep-alive") == 4
    assert len(between.events) == 4
    alone = await post(upstream, chat("[[tokens=3 fault=comments_only]]", stream=True))
    assert alone.events == []
    assert alone.body.startswith(b": keep-alive\n\n")
    assert last(upstream).emitted == 0


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ("zero", 0),
        ("negative", -4),
        ("absurd", 10**12),
        ("disagree", 8),
        ("null", None),
        ("missing", "absent"),
    ],
)
async def test_usage_may_lie_and_the_oracle_does_not(
    upstream: Upstream, usage: str, expected: object
) -> None:
    script = f"[[tokens=4 usage={usage}]]"
    plain = await post(upstream, chat(script))
    told = plain.json.get("usage", "absent")
    assert (told["completion_tokens"] if isinstance(told, dict) else told) == expected
    stream = await post(upstream, chat(script, stream=True, stream_options=USAGE))
    told = stream.events[-2].get("usage", "absent")
    assert (told["completion_tokens"] if isinstance(told, dict) else told) == expected
    assert [record.emitted for record in upstream.records] == [4, 4]


async def test_generation_stops_when_the_peer_goes_and_the_gauge_drops(upstream: Upstream) -> None:
    wire = await Wire.open(upstream)
    wire.send("POST", CHAT, chat("[[tokens=1000 delay=2ms]]", stream=True))
    await wire.reader.readuntil(b" w3")
    assert (
        'vllm:num_requests_running{engine="0",model_name="mixtral-demo"} 1.0'
        in (await get(upstream, "/metrics")).body.decode()
    )
    wire.writer.close()
    await upstream.until(lambda records: records[-1].ended == "peer_closed")
    assert 3 <= last(upstream).emitted < 1000
    assert last(upstream).peer_closed_at is not None
    assert b'model_name="mixtral-demo"} 0.0' in (await get(upstream, "/metrics")).body


async def test_a_plain_answer_that_is_left_has_the_tokens_of_its_time(upstream: Upstream) -> None:
    wire = await Wire.open(upstream)
    wire.send("POST", CHAT, chat("[[tokens=50 delay=4ms]]"))
    await asyncio.sleep(0.05)
    wire.writer.close()
    await upstream.until(lambda records: records[-1].ended == "peer_closed")
    assert 5 <= last(upstream).emitted < 50


@pytest.mark.parametrize("stream", [False, True])
async def test_a_provider_that_ignores_the_close_bills_on(upstream: Upstream, stream: bool) -> None:
    wire = await Wire.open(upstream)
    wire.send("POST", CHAT, chat("[[tokens=12 delay=3ms ignore_close]]", stream=stream))
    await asyncio.sleep(0.01)
    wire.writer.close()
    await upstream.until(lambda records: records[-1].ended == "peer_closed")
    assert last(upstream).emitted == 12
    assert last(upstream).emitted_after_close > 0


async def test_a_peer_that_does_not_read_stops_the_pace(upstream: Upstream) -> None:
    wire = await Wire.open(upstream)
    wire.writer.transport.pause_reading()
    wire.send("POST", CHAT, chat("[[tokens=200000]]", stream=True))
    await asyncio.sleep(0.3)
    before = last(upstream).emitted
    assert 0 < before < 200_000
    wire.writer.transport.resume_reading()
    async with asyncio.timeout(20):
        while await wire.reader.read(2**20):
            if last(upstream).ended == "complete":
                break
    assert last(upstream).emitted == 200_000


async def test_a_connection_is_kept_for_the_next_call(upstream: Upstream) -> None:
    wire = await Wire.open(upstream)
    for _ in range(3):
        wire.send("POST", CHAT, chat("[[tokens=2]]", stream=True))
        await wire.reader.readuntil(b"\r\n0\r\n\r\n")
    assert len(upstream.connections) == 1
    assert [record.ended for record in upstream.records] == ["complete"] * 3


async def test_connections_are_refused_while_it_refuses(upstream: Upstream) -> None:
    await upstream.refuse()
    with pytest.raises(ConnectionRefusedError):
        await Wire.open(upstream)
    await upstream.accept()
    assert (await post(upstream, chat("x"))).status == 200


async def test_models_health_and_errors_are_answered(upstream: Upstream) -> None:
    assert [model["id"] for model in (await get(upstream, "/v1/models")).json["data"]] == ["mixtral-demo"]
    assert (await get(upstream, "/health")).status == 200
    assert (await get(upstream, "/nothing")).status == 404
    assert (await post(upstream, b"{")).status == 400
    async with Upstream(api_key="sk-up", strict_models=True) as guarded:
        assert (await post(guarded, chat("x"))).status == 401
        assert (await post(guarded, chat("x", model="other"), authorization="Bearer sk-up")).status == 404
        assert (await post(guarded, chat("x"), authorization="Bearer sk-up")).status == 200


async def test_what_was_received_is_kept_for_tests_to_look_at(upstream: Upstream) -> None:
    body = chat(
        "x", user="u", priority=3, cache_salt="s", stream=True, stream_options=CONTINUOUS, max_tokens=9
    )
    await post(upstream, body, x_request_id="id", authorization="Bearer k")
    received = upstream.received[-1]
    assert received.headers["authorization"] == "Bearer k"
    assert json.loads(received.body) == body
    record = last(upstream)
    assert (record.user, record.priority, record.cache_salt, record.max_tokens) == ("u", 3, "s", 9)
    assert (record.stream, record.include_usage, record.continuous_usage) == (True, True, True)


async def test_prompt_tokens_are_words_of_all_text(upstream: Upstream) -> None:
    parts = [{"type": "text", "text": "a b"}, {"type": "image_url", "image_url": {"url": "x"}}]
    body = {
        "model": "m",
        "messages": [{"role": "system", "content": "s t u"}, {"role": "user", "content": parts}],
    }
    assert (await post(upstream, body)).json["usage"]["prompt_tokens"] == count_prompt_tokens(body) == 5
    assert count_prompt_tokens({"model": "m", "prompt": [1, 2, 3, 4]}) == 4


async def test_the_oracle_answers_over_http(upstream: Upstream) -> None:
    wire = await Wire.open(upstream)
    wire.send("POST", "/oracle/script", ["tokens=1", {"tokens": 2, "at": "start"}], connection="close")
    assert Parsed(await wire.rest()).json == {"queued": 2}
    await post(upstream, chat("x"), x_request_id="one")
    await post(upstream, chat("x"), x_request_id="two")
    assert [r["emitted"] for r in (await get(upstream, "/oracle?request_id=two")).json] == [2]
    assert (await get(upstream, "/oracle/summary")).json == {
        "requests": 2, "running": 0, "prompt_tokens": 2, "emitted": 3, "ended": {"complete": 2},
    }  # fmt: skip


async def test_the_journal_file_holds_every_record_as_it_last_stood(tmp_path: Any) -> None:
    path = tmp_path / "journal.jsonl"
    async with Upstream(journal=path) as upstream:
        await post(upstream, chat("[[tokens=5 delay=1ms]]", stream=True), x_request_id="a")
        await post(upstream, chat("[[fail=503]]"), x_request_id="b")
        kept = list(upstream.records)
    assert read_journal(path) == kept
    with path.open("ab") as file:
        file.write(b'{"seq":3,"path":"/v1')
    assert len(read_journal(path)) == 2, "a torn last line is skipped"


async def test_it_runs_as_a_process_on_a_unix_socket(tmp_path: Any) -> None:
    import sys

    socket, journal = tmp_path / "up.sock", tmp_path / "j.jsonl"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.faults.upstream", "--uds", str(socket), "--journal", str(journal),
        "--script", "tokens=7", stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert (await process.stdout.readline()).decode().strip() == str(socket)
        wire = Wire(*await asyncio.open_unix_connection(str(socket)))
        wire.send("POST", CHAT, chat("hello"), connection="close")
        assert Parsed(await wire.rest()).json["usage"]["completion_tokens"] == 7
    finally:
        process.terminate()
        await process.wait()
    assert [(record.emitted, record.ended) for record in read_journal(journal)] == [(7, "complete")]
