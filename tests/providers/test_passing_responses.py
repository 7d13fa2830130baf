"""OpenAI's Responses to a provider that speaks them: every byte passes, and only what the gateway says of its own is changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response as WholeResponse
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from engines.adapter import Call
from engines.errors import EngineError, Garbled, Reported
from engines.messages import believed
from engines.openai import OpenAIEngine
from engines.openai_responses.passing import (
    ResponsesStream,
    passed_body,
    read_passed,
    retold,
    told_of,
)
from engines.openai_responses.reading import read_responses
from engines.providers import PROVIDERS, option_fault, speaks_responses
from engines.transport import Response
from gateway.http.openai.responses import read_response
from tests.providers import wires_responses
from tests.providers.cases import CASES, MODEL
from tests.providers.test_responses import added_up, events_of
from tests.providers.wires import dumped

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
_NAMES = ("response.completed", "response.incomplete", "response.failed")


@pytest.mark.parametrize("case", CASES)
def test_what_the_scriptable_provider_sends_is_what_openais_published_types_say(case: str) -> None:
    WholeResponse.model_validate(wires_responses.responses_plain(CASES[case]))
    for each in wires_responses.responses_events(CASES[case]):
        EVENT.validate_python(each)


@pytest.mark.parametrize("case", CASES)
def test_a_stream_passes_untouched_whatever_the_boundaries_and_its_end_waits(case: str) -> None:
    data = wires_responses.responses_stream(CASES[case])
    usage, stop = CASES[case].usage, CASES[case].stop
    assert usage is not None

    def passed(*pieces: bytes) -> bytes:
        stream = ResponsesStream({}, limit=10_000, most=None)
        out = b"".join(stream.feed(each) for each in pieces)
        assert stream.done
        assert stream.count is not None
        assert (stream.count.prompt, stream.count.completion) == (usage.prompt, usage.completion)
        assert (stream.count.cached, stream.count.reasoning) == (usage.cache_read, usage.reasoning)
        assert stream.finish_reason == ("stop" if case == "declined" else stop.finish_reason)
        assert stream.model == MODEL
        assert not any(b"event: " + name.encode() in out for name in _NAMES)
        return out + stream.terminal()

    assert passed(data) == data
    for cut in range(1, len(data), 1 if case == "text" else 31):
        assert passed(data[:cut], data[cut:]) == data
    assert passed(data.replace(b"\n", b"\r\n")) == data


def test_what_says_nothing_yet_waits_for_what_does_so_that_the_call_can_go_elsewhere() -> None:
    data = wires_responses.responses_stream(CASES["text"])
    frames = [each + b"\n\n" for each in data.split(b"\n\n")[:-1]]
    stream = ResponsesStream({}, limit=100, most=None)
    assert stream.feed(frames[0]) == stream.feed(frames[1]) == b""
    assert stream.feed(frames[2]) == b"".join(frames[:3])


@pytest.mark.parametrize("case", ["text", "tools at once", "custom tool", "reasoning", "declined"])
def test_output_stops_before_the_limit_and_goes_on_where_it_stopped(case: str) -> None:
    data = wires_responses.responses_stream(CASES[case])
    stream = ResponsesStream({}, limit=0, most=None)
    out = stream.feed(data)
    while stream.exhausted:
        stream.limit += 1
        out += stream.feed(b"")
    assert stream.done
    assert out + stream.terminal() == data


@pytest.mark.parametrize("case", ["text", "tools at once", "custom tool", "reasoning", "declined"])
def test_a_stream_that_the_gateway_ends_is_a_response_that_its_provider_might_have_ended(case: str) -> None:
    data = wires_responses.responses_stream(CASES[case])
    whole = ResponsesStream({}, limit=10_000, most=None)
    whole.feed(data[: data.index(b"event: response.completed")])
    assert whole.running > 2
    for limit in range(whole.running):
        stream = ResponsesStream({}, limit=limit, most=None)
        out = stream.feed(data)
        assert stream.exhausted
        out += stream.closing_events(extra={"weighbridge": {"stopped_by": "limit"}}) + stream.terminal()
        events = _told(out)
        assert [each["type"] in _NAMES for each in events] == [False] * (len(events) - 1) + [True]
        ended = events[-1]["response"]
        assert events[-1]["type"] == "response.incomplete"
        assert ended["incomplete_details"] == {"reason": "max_output_tokens"}
        assert ended["weighbridge"] == {"stopped_by": "limit"}
        assert ended["usage"]["output_tokens"] == stream.running <= limit
        assert ended["id"] == wires_responses.ID
        if case != "reasoning":
            assert ended["output"] == added_up(events)
        opened = [each["output_index"] for each in events if each["type"] == "response.output_item.added"]
        closed = [each["output_index"] for each in events if each["type"] == "response.output_item.done"]
        assert opened == closed == list(range(len(ended["output"])))


def test_a_stream_that_breaks_ends_with_one_event_that_says_so_in_our_words() -> None:
    data = wires_responses.responses_stream(CASES["tools at once"])
    frames = [each + b"\n\n" for each in data.split(b"\n\n")[:-1]]
    failures: list[dict[str, Any]] = [
        {
            "type": "response.failed",
            "response": {"status": "failed", "error": {"code": "server_error", "message": "secret words"}},
        },
        {"type": "error", "code": "server_error", "message": "secret words", "param": None},
    ]
    for failure in failures:
        stream = ResponsesStream({}, limit=10_000, most=None)
        out = b"".join(stream.feed(each) for each in frames[:14])
        with pytest.raises(Reported):
            stream.feed(b"event: x\ndata: %b\n\n" % dumped({"sequence_number": 14, **failure}))
        out += stream.failed("upstream_failed", "It broke.")
        events = _told(out)
        failed = events[-1]["response"]
        assert (events[-1]["type"], failed["status"]) == ("response.failed", "failed")
        assert failed["error"] == {"code": "server_error", "message": "It broke.", "type": "upstream_failed"}
        assert b"secret" not in out
    # Of what nobody heard a word there is no response that could fail.
    assert ResponsesStream({}, limit=1, most=None).failed("x", "y") == b""


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "response.output_item.done", "item": 5},
        {"type": "response.output_item.done"},
        {"type": "response.output_item.added", "item": None},
        {"type": "response.content_part.added", "part": "x"},
    ],
)
def test_an_item_that_is_no_object_ends_a_stream_and_its_end_can_be_told(odd: dict[str, Any]) -> None:
    """What is kept of an answer has to be told again where the stream breaks."""
    stream = ResponsesStream({}, limit=10_000, most=None)
    begun = wires_responses.responses_events(CASES["text"])[:5]
    stream.feed(b"".join(b"data: %b\n\n" % dumped(each) for each in begun))
    with pytest.raises(Garbled):
        stream.feed(b"data: %b\n\n" % dumped({**odd, "sequence_number": 9, "output_index": 0}))
    assert b"response.failed" in stream.failed("upstream_failed", "It broke.")


def test_a_stream_that_is_cut_anywhere_is_never_taken_for_whole() -> None:
    data = wires_responses.responses_stream(CASES["tools at once"])
    for cut in range(0, len(data) - 2, 11):
        stream = ResponsesStream({}, limit=10_000, most=None)
        assert data.startswith(stream.feed(data[:cut]))
        with pytest.raises(Garbled):
            stream.ended()
    stream = ResponsesStream({}, limit=10_000, most=None)
    out = stream.feed(data[:-2])
    stream.ended()
    assert out + stream.feed(b"") + stream.terminal() == data


@given(
    st.lists(
        st.sampled_from(
            [b"data: ", b'{"type":', b'"response.completed"', b',"response":', b"{}", b"}", b"\n\n", b"\xff",
             b'"response.output_item.added"', b'"x.delta","delta":1', b"{"]
        )
    )
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_whatever_is_sent_is_a_typed_failure(pieces: list[bytes]) -> None:
    stream = ResponsesStream({}, limit=10_000, most=None)
    with pytest.raises(EngineError):
        for each in pieces:
            stream.feed(each)
        stream.ended()


def test_a_plain_answer_passes_and_its_counts_and_its_end_are_read() -> None:
    for case, answer in CASES.items():
        body = dumped(wires_responses.responses_plain(answer))
        assert retold(body, {}) == body
        read = read_passed(body)
        count, usage = believed(read.usage), answer.usage
        assert count is not None
        assert usage is not None
        assert (count.prompt, count.completion) == (usage.prompt, usage.completion)
        assert (count.cached, count.cache_write, count.reasoning) == (
            usage.cache_read,
            usage.cache_write,
            usage.reasoning,
        )
        wanted = "stop" if case == "declined" else answer.stop.finish_reason
        assert (read.model, read.choices[0].finish_reason) == (MODEL, wanted)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"input_tokens": -1, "output_tokens": 4},
        {"input_tokens": 10**12, "output_tokens": 4},
        {"input_tokens": 1, "output_tokens": 4, "input_tokens_details": {"cached_tokens": 9}},
        {"input_tokens": 1, "output_tokens": 4, "output_tokens_details": {"reasoning_tokens": 9}},
    ],
)
def test_counts_that_cannot_be_are_none(usage: Any) -> None:
    whole = wires_responses.responses_plain(CASES["text"]) | {"usage": usage}
    assert believed(read_passed(dumped(whole)).usage) is None
    events = wires_responses.responses_events(CASES["text"])
    events[-1]["response"]["usage"] = usage
    stream = ResponsesStream({}, limit=10_000, most=None)
    stream.feed(b"".join(b"data: %b\n\n" % dumped(each) for each in events))
    assert stream.done
    assert stream.count is None
    assert stream.counted > 0


@pytest.mark.parametrize("status", ["failed", "in_progress", "queued", "cancelled", ""])
def test_a_plain_answer_that_has_not_ended_is_none(status: str) -> None:
    body = dumped(wires_responses.responses_plain(CASES["text"]) | {"status": status})
    with pytest.raises(Reported if status == "failed" else Garbled):
        read_passed(body)


ASKED: dict[str, Any] = {
    "model": "endpoint",
    "input": [{"role": "user", "content": "Hello"}],
    "metadata": {"team": "a"},
    "user": "ann",
    "safety_identifier": "hash",
    "store": True,
    "stream_options": {"include_obfuscation": False},
    "stream": True,
    "text": {"verbosity": "low"},
    "prompt_cache_key": "k",
    "future": 1,
}


def test_the_provider_gets_what_the_client_sent_and_keeps_nothing() -> None:
    request = read_response(ASKED)
    assert (request.end_user, request.tags, request.unknown) == (
        "ann",
        {"team": "a"},
        ("future", "text.verbosity"),
    )
    sent = passed_body(request.body, model="gpt", max_tokens=20, stream=True)
    assert sent == {
        "model": "gpt",
        "input": ASKED["input"],
        "safety_identifier": "hash",
        "store": False,
        "stream": True,
        "stream_options": {"include_obfuscation": False},
        "max_output_tokens": 20,
        "text": {"verbosity": "low"},
        "prompt_cache_key": "k",
        "future": 1,
    }
    assert told_of(request.body) == {"metadata": {"team": "a"}}


def test_thoughts_go_back_to_whoever_sealed_them_and_to_nobody_else() -> None:
    ours = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "proof.abc"}
    theirs = {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": wires_responses.SEALED}
    bare = {"type": "reasoning", "id": "rs_3", "summary": [{"type": "summary_text", "text": "Hm."}]}
    question = {"role": "user", "content": "?"}
    asked = read_response({"model": "e", "input": [question, ours, theirs, bare, question]})
    assert passed_body(asked.body, model="m", max_tokens=None, stream=False)["input"] == [
        question,
        theirs,
        question,
    ]
    # A provider of another dialect is told nothing of what OpenAI sealed.
    turns = read_responses(asked.body, None).messages
    assert wires_responses.SEALED not in repr(turns)


def test_an_answer_that_is_kept_has_our_name_in_every_frame_that_names_it() -> None:
    asked = {
        "id": "resp_" + "0" * 32,
        "store": True,
        "previous_response_id": "resp_1",
        "metadata": {"team": "a"},
    }
    told = told_of(asked)
    data = wires_responses.responses_stream(CASES["tools at once"])
    stream = ResponsesStream(told, limit=10_000, most=None)
    out = stream.feed(data)
    events = _told(out + stream.terminal())
    responses = [each["response"] for each in events if "response" in each]
    assert len(responses) == 3
    assert all(each | told == each for each in responses)
    assert wires_responses.ID.encode() not in out + stream.terminal()
    plain = json.loads(retold(dumped(wires_responses.responses_plain(CASES["tools at once"])), told))
    assert plain == responses[-1]
    # What does not name it passes as it came.
    untouched = [each for each in data.split(b"\n\n") if b'"response":' not in each]
    assert [each for each in out.split(b"\n\n") if b'"response":' not in each] == untouched
    # And where it is cut, its end has our name too.
    stream = ResponsesStream(told, limit=1, most=None)
    stream.feed(data)
    stream.closing_events(extra={})
    assert json.loads(stream.terminal().partition(b"data: ")[2])["response"]["id"] == asked["id"]


def test_an_address_speaks_responses_where_that_is_known_or_said() -> None:
    openai, azure, other = (PROVIDERS[name] for name in ("openai", "azure-openai", "openai-compatible"))
    assert speaks_responses(openai, "https://api.openai.com/v1", {})
    assert speaks_responses(openai, "https://eu.api.openai.com/v1", {})
    assert not speaks_responses(openai, "https://api.openai.com.example/v1", {})
    assert not speaks_responses(openai, "https://notapi.openai.com/v1", {})
    assert not speaks_responses(openai, "http://127.0.0.1:8000/v1", {})
    assert speaks_responses(azure, "https://mine.openai.azure.com/openai/v1", {})
    assert not speaks_responses(openai, "https://api.openai.com/v1", {"responses": "no"})
    for each in (other, PROVIDERS["vllm"], PROVIDERS["mistral"]):
        assert not speaks_responses(each, "https://10.0.0.1/v1", {})
        assert speaks_responses(each, "https://10.0.0.1/v1", {"responses": "yes"})
    assert not speaks_responses(PROVIDERS["anthropic"], "https://api.anthropic.com/v1", {"responses": "yes"})
    assert option_fault(other, {"responses": "yes"}) is option_fault(other, {}) is None
    assert option_fault(other, {"responses": "maybe"}) is not None
    assert option_fault(PROVIDERS["cohere"], {"responses": "no"}) is not None


class _Transport:
    def __init__(self, body: bytes) -> None:
        self.body = body
        self.asked: list[tuple[str, Any]] = []

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Response:
        self.asked.append((path, json.loads(body)))
        return Response(200, {}, self.body)


def test_a_vllm_that_is_told_to_speak_responses_keeps_its_callers_apart_and_gets_no_hints() -> None:
    body = dumped(wires_responses.responses_plain(CASES["text"]))
    transport: Any = _Transport(body)
    engine = OpenAIEngine(transport, is_vllm=True, responses=True)
    call = Call(
        "/v1/responses", {"input": "x", "prompt_cache_key": "k"}, "m", 9, {}, cache_salt="s", priority=-1
    )
    assert asyncio.run(engine.complete(call)).body == body
    sent = {
        "model": "m",
        "input": "x",
        "store": False,
        "max_output_tokens": 9,
        "cache_salt": "s",
        "priority": -1,
    }
    assert transport.asked == [("/v1/responses", sent)]


def _told(frames: bytes) -> list[dict[str, Any]]:
    """The events, numbered without a gap and each as its published type says."""
    events = events_of(frames, held=False)
    for each in events:
        EVENT.validate_python(each)
    return events
