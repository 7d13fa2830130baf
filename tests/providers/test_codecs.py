"""Every provider's answers into every client's dialect: equal plain and streamed, whatever the boundaries, ended once.

Bodies and events are held against the providers' published types first, so that no codec is tested on shapes of our
own making.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import botocore.session
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from botocore.model import ServiceModel
from botocore.validate import ParamValidator
from cohere.core.unchecked_base_model import construct_type
from cohere.v2.types import V2ChatResponse, V2ChatStreamResponse
from google.genai import types as genai
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from engines.anthropic.answers import Messages
from engines.bedrock.answers import Converse
from engines.canonical import Answer, Reasoning, Refusal, Stop, Text, ToolCall, Usage
from engines.cohere.answers import Cohere
from engines.dialects import EventReader
from engines.errors import EngineError, Garbled, Reason, Reported
from engines.gemini.answers import Gemini
from engines.openai_chat.provider import ChatReader, read_chat_answer
from engines.openai_chat.writing import ChatClient
from engines.translated_stream import TranslatedStream
from engines.whole_answers import assembled
from tests.providers import wires
from tests.providers.cases import CASES, MODEL


@dataclass(frozen=True)
class Provider:
    """One provider's codec and its wire format."""

    plain: Callable[[Answer], dict[str, Any]]
    stream: Callable[[Answer], bytes]
    read: Callable[[bytes], Answer]
    reader: Callable[[], EventReader]
    lacks: frozenset[str] = frozenset()
    """Cases that its dialect has no word for."""


PROVIDERS = {
    "openai": Provider(
        wires.openai_plain, wires.openai_stream, read_chat_answer, ChatReader, frozenset({"sequence"})
    ),
    "anthropic": Provider(
        wires.anthropic_plain,
        wires.anthropic_stream,
        Messages().read_answer,
        Messages().reader,
        frozenset({"filtered"}),
    ),
    "gemini": Provider(
        wires.gemini_plain,
        wires.gemini_stream,
        Gemini().read_answer,
        Gemini().reader,
        frozenset({"sequence", "declined"}),
    ),
    "bedrock": Provider(
        wires.bedrock_plain,
        wires.bedrock_stream,
        Converse().read_answer,
        Converse().reader,
        frozenset({"declined"}),
    ),
    "cohere": Provider(
        wires.cohere_plain,
        wires.cohere_stream,
        Cohere().read_answer,
        Cohere().reader,
        frozenset({"filtered", "declined"}),
    ),
}
MATRIX = [
    pytest.param(name, case, id=f"{name}: {case}")
    for name, provider in PROVIDERS.items()
    for case in CASES
    if case not in provider.lacks
]
_BEDROCK = ServiceModel(
    botocore.session.get_session()
    .get_component("data_loader")
    .load_service_model("bedrock-runtime", "service-2")
)


def shape_of_bedrock(name: str, value: dict[str, Any]) -> None:
    """Hold a value against AWS's own service model; its blobs travel as base64 in JSON."""
    report = ParamValidator().validate(value, _BEDROCK.shape_for(name))
    assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize(("name", "case"), MATRIX)
def test_what_the_scriptable_providers_send_is_what_their_published_types_say(name: str, case: str) -> None:
    answer = CASES[case]
    if name == "openai":
        ChatCompletion.model_validate(wires.openai_plain(answer))
        for each in wires.openai_events(answer):
            ChatCompletionChunk.model_validate(each)
    elif name == "anthropic":
        Message.model_validate(wires.anthropic_plain(answer))
        known = TypeAdapter(RawMessageStreamEvent)
        for each in wires.anthropic_events(answer):
            if each["type"] != "ping":
                known.validate_python(each)
    elif name == "gemini":
        for each in (wires.gemini_plain(answer), *wires.gemini_events(answer)):
            genai.GenerateContentResponse.model_validate(each)
    elif name == "bedrock":
        shape_of_bedrock("ConverseResponse", wires.bedrock_plain(answer))
        for event, payload in wires.bedrock_events(answer):
            shape_of_bedrock("ConverseStreamOutput", {event: payload})
    else:
        # Cohere's generated models check nothing by themselves: what they do not know ends up as an extra.
        whole = construct_type(type_=V2ChatResponse, object_=wires.cohere_plain(answer))
        assert not (whole.model_extra or whole.message.model_extra)
        for each in wires.cohere_events(answer):
            read = construct_type(type_=V2ChatStreamResponse, object_=each)
            assert read.type == each["type"]
            assert not read.model_extra


def expected(name: str, case: str) -> Answer:
    """The case as this provider can tell it."""
    answer = CASES[case]
    usage, stop, parts, sequence = answer.usage, answer.stop, list(answer.parts), answer.sequence
    assert usage is not None
    if name in ("openai", "cohere"):
        parts = [Reasoning(part.text) if isinstance(part, Reasoning) else part for part in parts]
    if name == "openai" and case == "declined":
        stop = Stop.END
    if name in ("gemini", "cohere"):
        usage = Usage(usage.fresh + usage.cache_write, usage.cache_read, 0, usage.output, usage.reasoning)
    if name in ("bedrock", "cohere"):
        usage = Usage(usage.fresh, usage.cache_read, usage.cache_write, usage.completion)
    if name in ("bedrock", "cohere"):
        sequence = None
    identity = {"openai": "chatcmpl-1", "anthropic": "msg_1", "gemini": "r1", "cohere": "c1", "bedrock": None}
    model = MODEL if name in ("openai", "anthropic", "gemini") else None
    return Answer(tuple(parts), stop, usage, identity[name], model, sequence)


def loosely(answer: Answer) -> Answer:
    """The answer with its calls' arguments as JSON of one spelling."""
    parts = [
        ToolCall(part.id, part.name, json.dumps(json.loads(part.arguments)), part.signature)
        if isinstance(part, ToolCall)
        else part
        for part in answer.parts
    ]
    return Answer(tuple(parts), answer.stop, answer.usage, answer.id, answer.model, answer.sequence)


def events_of(reader: EventReader, data: bytes, size: int) -> list[Any]:
    events = []
    for at in range(0, len(data), size):
        events += reader.read(data[at : at + size])
    return events + reader.ended()


@pytest.mark.parametrize(("name", "case"), MATRIX)
def test_an_answer_is_the_same_plain_and_streamed_at_every_boundary(name: str, case: str) -> None:
    provider, answer = PROVIDERS[name], CASES[case]
    plain = provider.read(wires.dumped(provider.plain(answer)))
    assert loosely(plain) == loosely(expected(name, case))
    data = provider.stream(answer)
    for size in (1, 7, len(data)):
        reader = provider.reader()
        assert loosely(assembled(events_of(reader, data, size))) == loosely(plain)
        assert reader.done
    # Two pieces, cut once at every byte of the stream that has all kinds of events, and at some of the others'.
    for cut in range(1, len(data), 1 if case == "tools at once" else 13):
        reader = provider.reader()
        events = reader.read(data[:cut]) + reader.read(data[cut:]) + reader.ended()
        assert loosely(assembled(events)) == loosely(plain), cut


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_stream_that_is_cut_anywhere_is_never_taken_for_whole(name: str) -> None:
    provider, answer = PROVIDERS[name], CASES["tools at once"]
    data = provider.stream(answer)
    whole = assembled(events_of(provider.reader(), data, len(data)))
    for cut in range(0, len(data), 3):
        reader = provider.reader()
        events = reader.read(data[:cut])
        try:
            events += reader.ended()
        except Garbled:
            continue
        # What is whole lacks at most the count, or the blank line after the last event.
        found = assembled(events)
        assert found.parts == whole.parts
        assert found.usage in (None, whole.usage)


@pytest.mark.parametrize(("name", "case"), MATRIX)
def test_a_translated_stream_is_one_chat_completion_and_ends_once(name: str, case: str) -> None:
    provider, answer = PROVIDERS[name], CASES[case]
    client = ChatClient()
    plain = ChatCompletion.model_validate_json(
        client.write_answer(provider.read(wires.dumped(provider.plain(answer))), {}, model="m", now=1)
    )
    data = provider.stream(answer)
    for show_usage in (True, False):
        stream = TranslatedStream(
            provider.reader(),
            client.writer({}, show_usage=show_usage, model="m", now=1),
            limit=10_000,
            most=None,
            show_usage=show_usage,
        )
        out = b"".join(stream.feed(data[at : at + 11]) for at in range(0, len(data), 11))
        stream.ended()
        out += stream.feed(b"")
        assert stream.done
        frames = out.decode().split("\n\n")
        assert frames.pop() == ""
        chunks = [ChatCompletionChunk.model_validate_json(each.removeprefix("data: ")) for each in frames]
        assert len({(each.id, each.created, each.model) for each in chunks}) == 1
        ends = [each for each in chunks if each.choices and each.choices[0].finish_reason]
        assert [each.choices[0].finish_reason for each in ends] == [plain.choices[0].finish_reason]
        if show_usage:
            assert chunks[-1].usage == plain.usage
            assert not chunks[-1].choices
            assert chunks[-2] is ends[0]
        else:
            assert all(each.choices and each.usage is None for each in chunks)
            assert chunks[-1] is ends[0]
        message = plain.choices[0].message
        deltas = [each.choices[0].delta for each in chunks if each.choices]
        assert deltas[0].role == "assistant"
        assert "".join(each.content or "" for each in deltas) == (message.content or "")
        assert "".join(each.refusal or "" for each in deltas) == (message.refusal or "")
        calls: dict[int, list[str]] = {}
        for each in (call for delta in deltas for call in delta.tool_calls or ()):
            assert each.function is not None
            told = calls.setdefault(each.index, ["", "", ""])
            for at, word in enumerate((each.id, each.function.name, each.function.arguments)):
                told[at] += word or ""
        assert [(i, n, json.loads(a)) for i, n, a in calls.values()] == [
            (call.id, call.function.name, json.loads(call.function.arguments))  # pyright: ignore
            for call in message.tool_calls or ()
        ]


@pytest.mark.parametrize("name", PROVIDERS)
def test_output_stops_before_the_limit_and_goes_on_where_it_stopped(name: str) -> None:
    provider, answer = PROVIDERS[name], CASES["text"]
    data = provider.stream(answer)

    def made(limit: int) -> TranslatedStream:
        writer = ChatClient().writer({}, show_usage=True, model="m", now=1)
        return TranslatedStream(provider.reader(), writer, limit=limit, most=None, show_usage=True)

    whole = made(10_000)
    wanted = whole.feed(data)
    whole.ended()
    wanted += whole.feed(b"")
    stream = made(0)
    out = stream.feed(data)
    while stream.exhausted:
        assert b'finish_reason":"' not in out
        stream.limit += 1
        out += stream.feed(b"")
    stream.ended()
    out += stream.feed(b"")
    assert _anonymous(out) == _anonymous(wanted)
    assert stream.count == whole.count
    assert stream.count is not None
    assert stream.count.exact


def _anonymous(frames: bytes) -> list[Any]:
    """The frames without the id that is made up where the provider tells none."""
    return [
        {**json.loads(each.removeprefix("data: ")), "id": ""}
        for each in frames.decode().split("\n\n")
        if each
    ]


def test_an_estimate_never_ends_an_answer_that_its_provider_will_end() -> None:
    stream = TranslatedStream(
        Messages().reader(),
        ChatClient().writer({}, show_usage=False, model="m", now=1),
        limit=4,
        most=4,
        show_usage=False,
    )
    stream.feed(wires.anthropic_stream(Answer((Text("word " * 400),), Stop.LENGTH, Usage(fresh=3, output=4))))
    assert stream.done
    assert not stream.exhausted
    assert stream.count is not None
    assert stream.count.completion == 4


def test_what_was_counted_here_says_so_until_the_provider_counts() -> None:
    data = wires.anthropic_stream(CASES["text"])
    stream = TranslatedStream(
        Messages().reader(),
        ChatClient().writer({}, show_usage=False, model="m", now=1),
        limit=10_000,
        most=None,
        show_usage=False,
    )
    stream.feed(data[: data.index(b"content_block_stop")])
    assert stream.count is not None
    assert (stream.count.prompt, stream.count.exact) == (11, False)
    assert stream.count.completion == stream.running > 0
    stream.feed(data[data.index(b"content_block_stop") :])
    assert (stream.count.completion, stream.count.exact) == (7, True)


@pytest.mark.parametrize(
    ("name", "frames", "reason"),
    [
        (
            "anthropic",
            wires.sse(("error", {"type": "error", "error": {"type": "overloaded_error"}})),
            Reason.OVERLOADED,
        ),
        ("gemini", wires.sse(("", {"error": {"code": 503, "status": "UNAVAILABLE"}})), Reason.OVERLOADED),
        (
            "bedrock",
            wires.frame("throttlingException", b'{"message":"slow"}', "exception"),
            Reason.RATE_LIMITED,
        ),
        ("bedrock", wires.frame("modelStreamErrorException", b"{}", "exception"), Reason.FAILED),
        (
            "cohere",
            wires.sse(("", {"type": "message-end", "delta": {"finish_reason": "ERROR"}})),
            Reason.FAILED,
        ),
        ("openai", wires.sse(("", {"error": {"message": "secret words"}})), Reason.FAILED),
    ],
)
def test_a_failure_that_is_told_in_the_stream_is_one(name: str, frames: bytes, reason: Reason) -> None:
    provider = PROVIDERS[name]
    begun = provider.stream(CASES["text"])[: 0 if name == "bedrock" else None]
    reader = provider.reader()
    if name == "bedrock":
        reader.read(wires.frame("messageStart", b'{"role":"assistant"}'))
    else:
        first = begun.replace(b"\r\n", b"\n").split(b"\n\n")[0] + b"\n\n"
        reader.read(first)
    with pytest.raises(Reported) as caught:
        reader.read(frames)
    assert caught.value.reason is reason
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", PROVIDERS)
@given(junk=st.binary(min_size=1, max_size=200), at=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_whatever_an_upstream_sends_is_an_answer_or_a_typed_failure(
    name: str, junk: bytes, at: float
) -> None:
    provider = PROVIDERS[name]
    data = provider.stream(CASES["tool"])
    place = int(at * len(data))
    reader = provider.reader()
    try:
        reader.read(data[:place] + junk + data[place:])
        reader.ended()
    except EngineError:
        pass
    try:
        provider.read(junk)
    except EngineError:
        pass


def test_a_refusal_of_the_model_is_told_as_one() -> None:
    body = json.loads(ChatClient().write_answer(CASES["declined"], {}, model="m", now=1))
    assert body["choices"][0]["message"]["refusal"] == CASES["declined"].parts[0].text  # pyright: ignore
    assert body["choices"][0]["finish_reason"] == "content_filter"
    assert isinstance(CASES["declined"].parts[0], Refusal)
