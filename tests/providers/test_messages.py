"""Anthropic's Messages towards clients: written for every provider's answers, passed through, and read into the one form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from engines.anthropic.answers import Messages
from engines.anthropic.client_reading import read_messages
from engines.anthropic.client_writing import MessagesClient
from engines.anthropic.passing import MessagesStream, SharedMessages
from engines.bedrock.requests import write_converse
from engines.canonical import (
    Image,
    Reasoning,
    Request,
    Text,
    Thinking,
    ToolCall,
    ToolCallBegan,
    ToolCallDelta,
    ToolChoice,
    ToolResult,
    Usage,
)
from engines.canonical import Message as Turn
from engines.cohere.requests import write_chat
from engines.errors import EngineError, Garbled, Unsupported
from engines.gemini.requests import write_contents
from engines.openai_chat.body import chat_body
from engines.openai_chat.provider import ChatReader
from engines.openai_chat.reading import read_chat
from engines.translated_stream import TranslatedStream
from engines.whole_answers import assembled
from gateway.errors import BadRequest
from gateway.http.anthropic.requests import read_count, read_message
from tests.providers import wires
from tests.providers.cases import CASES
from tests.providers.test_codecs import MATRIX, PROVIDERS, events_of, loosely

EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def frames_of(data: bytes) -> list[dict[str, Any]]:
    """The events of a stream, each named on its line as in its data."""
    frames = data.decode().split("\n\n")
    assert frames.pop() == ""
    events = []
    for frame in frames:
        name, _, payload = frame.partition("\n")
        event = json.loads(payload.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def translated(name: str, limit: int = 10_000) -> TranslatedStream:
    writer = MessagesClient().writer({}, show_usage=True, model="m", now=1)
    return TranslatedStream(PROVIDERS[name].reader(), writer, limit=limit, most=None, show_usage=True)


@pytest.mark.parametrize(("name", "case"), MATRIX)
def test_a_translated_stream_is_one_message_and_equals_the_plain_one(name: str, case: str) -> None:
    provider, answer = PROVIDERS[name], CASES[case]
    read = provider.read(wires.dumped(provider.plain(answer)))
    written = MessagesClient().write_answer(read, {}, model="m", now=1)
    plain = Message.model_validate_json(written)
    data = provider.stream(answer)
    stream = translated(name)
    out = b"".join(stream.feed(data[at : at + 11]) for at in range(0, len(data), 11))
    stream.ended()
    out += stream.feed(b"")
    assert stream.done
    assert b"message_stop" not in out
    events = frames_of(out + stream.terminal())
    for each in events:
        EVENT.validate_python(each)
    assert [each["type"] for each in events].count("message_start") == 1
    assert [each["type"] for each in events[-2:]] == ["message_delta", "message_stop"]
    opened: int | None = None
    for each in events:
        if each["type"] == "content_block_start":
            assert opened is None
            opened = each["index"]
        elif each["type"] == "content_block_delta":
            assert each["index"] == opened
        elif each["type"] == "content_block_stop":
            assert each["index"] == opened
            opened = None
    # What our own reader of Anthropic's streams makes of it is the plain message.
    reader = Messages().reader()
    again = assembled(events_of(reader, out + stream.terminal(), 9))
    whole = Messages().read_answer(written)
    assert loosely(again).parts == loosely(whole).parts
    assert (again.stop, again.sequence, again.usage) == (whole.stop, whole.sequence, whole.usage)
    assert plain.usage.output_tokens == (answer.usage or Usage()).completion
    assert events[-2]["usage"]["input_tokens"] == plain.usage.input_tokens


@pytest.mark.parametrize("case", [case for case in CASES if case != "filtered"])
def test_a_shared_stream_passes_through_untouched_whatever_the_boundaries(case: str) -> None:
    data = wires.anthropic_stream(CASES[case])
    usage = CASES[case].usage
    assert usage is not None

    def passed(*pieces: bytes) -> bytes:
        stream = MessagesStream(limit=10_000, most=None)
        out = b"".join(stream.feed(each) for each in pieces)
        stream.ended()
        out += stream.feed(b"")
        assert stream.done
        assert stream.count is not None
        assert (stream.count.prompt, stream.count.completion) == (usage.prompt, usage.completion)
        assert stream.finish_reason == CASES[case].stop.finish_reason
        assert b"message_stop" not in out
        return out + stream.terminal()

    assert passed(data) == data
    for cut in range(1, len(data), 1 if case == "tools at once" else 17):
        assert passed(data[:cut], data[cut:]) == data
    assert passed(data.replace(b"\n", b"\r\n")) == data
    # What comes after its end is nobody's.
    for more in (b'event: ping\ndata: {"type":"ping"}\n\n', b"data: [DONE]\n\n"):
        assert passed(data + more) == passed(data, more) == data


@pytest.mark.parametrize("case", ["text", "tools at once", "reasoning"])
def test_a_shared_stream_stops_before_the_limit_and_goes_on_where_it_stopped(case: str) -> None:
    data = wires.anthropic_stream(CASES[case])
    stream = MessagesStream(limit=0, most=None)
    out = stream.feed(data)
    while stream.exhausted:
        assert b"message_delta" not in out
        stream.limit += 1
        out += stream.feed(b"")
    stream.ended()
    assert stream.done
    assert out + stream.terminal() == data


@pytest.mark.parametrize("case", ["text", "tools at once", "reasoning"])
@pytest.mark.parametrize("shared", [True, False])
def test_a_stream_that_the_gateway_ends_is_a_whole_message_of_its_length(case: str, shared: bool) -> None:
    data = wires.anthropic_stream(CASES[case])
    whole = MessagesStream(limit=10_000, most=None)
    whole.feed(data[: data.index(b"event: message_delta")])
    for limit in range(whole.running):
        stream = MessagesStream(limit=limit, most=None) if shared else translated("anthropic", limit)
        out = stream.feed(data)
        assert stream.exhausted
        out += stream.closing_events(extra={"weighbridge": {"stopped_by": "limit"}}) + stream.terminal()
        events = frames_of(out)
        for each in events:
            if each["type"] != "ping":
                EVENT.validate_python(each)
        assert events[-2]["delta"]["stop_reason"] == "max_tokens"
        assert events[-2]["weighbridge"] == {"stopped_by": "limit"}
        assert events[-2]["usage"]["output_tokens"] == stream.running <= limit
        starts = [each["type"] for each in events].count("content_block_start")
        assert [each["type"] for each in events].count("content_block_stop") == starts


def test_a_shared_stream_that_is_cut_anywhere_is_never_taken_for_whole() -> None:
    data = wires.anthropic_stream(CASES["tools at once"])
    for cut in range(0, len(data) - 2, 5):
        stream = MessagesStream(limit=10_000, most=None)
        out = stream.feed(data[:cut])
        assert data.startswith(out)
        try:
            stream.ended()
        except Garbled:
            continue
        # Nothing but the last blank line is missing.
        assert data[cut:] == b"\n"


@given(
    st.lists(
        st.sampled_from([b"event: ", b"data: ", b"{", b"}", b"\n\n", b'"type"', b":", b'"error"', b"\xff"])
    )
)
@settings(max_examples=200, deadline=None)
def test_whatever_is_sent_passes_or_is_a_typed_failure(pieces: list[bytes]) -> None:
    stream = MessagesStream(limit=10_000, most=None)
    try:
        for each in pieces:
            stream.feed(each)
        stream.ended()
    except EngineError:
        return
    raise AssertionError("nonsense was taken for an answer")


def test_an_engine_that_counts_every_token_is_believed_before_its_text_is_estimated() -> None:
    def chunk(content: str, completion: int, finish: str | None = None) -> bytes:
        usage = {"prompt_tokens": 5, "completion_tokens": completion, "total_tokens": 5 + completion}
        choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish}
        return wires.sse(("", {"id": "c", "model": "m", "choices": [choice], "usage": usage}))

    writer = MessagesClient().writer({}, show_usage=True, model="m", now=1)
    stream = TranslatedStream(ChatReader(running=True), writer, limit=2, most=50, show_usage=True)
    long = "a word of many bytes and only one token "
    out = stream.feed(chunk("", 0) + chunk(long, 1) + chunk(long, 2) + chunk(long, 3, "stop"))
    assert stream.exhausted
    assert (stream.running, out.count(b"text_delta")) == (2, 2)
    assert b'"input_tokens":5' in out[: out.index(b"content_block_start")]
    stream.limit = 3
    out += stream.feed(b"data: [DONE]\n\n")
    assert stream.done
    assert (stream.running, out.count(b"text_delta")) == (3, 3)


def test_arguments_of_a_call_that_is_over_are_no_silence() -> None:
    writer = MessagesClient().writer({}, show_usage=True, model="m", now=1)
    writer.write([ToolCallBegan(0, "a", "one"), ToolCallBegan(1, "b", "two")])
    with pytest.raises(Garbled):
        writer.write([ToolCallDelta(0, "{")])


# -- requests ------------------------------------------------------------------------------------


def test_a_conversation_with_everything_is_read_into_the_one_form() -> None:
    body: dict[str, Any] = {
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look:"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aa"}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "tool_use", "id": "t1", "name": "look", "input": {"city": "Uster"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": "no", "is_error": True},
                    {"type": "text", "text": "And?"},
                ],
            },
        ],
        "tools": [{"name": "look", "description": "d", "input_schema": SCHEMA}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "thinking": {"type": "enabled", "budget_tokens": 2048},
        "stop_sequences": ["END"],
        "top_k": 4,
        "service_tier": "auto",
    }
    request = read_messages(body, 10)
    assert request.system == ("Be brief.",)
    assert request.messages[0].parts == (Text("Look:"), Image("image/png", "aa"))
    assert request.messages[1].parts == (Reasoning("hm", "s"), ToolCall("t1", "look", '{"city":"Uster"}'))
    assert request.messages[2].parts == (ToolResult("t1", (Text("no"),), True), Text("And?"))
    assert (request.tool_choice, request.parallel_tools) == (ToolChoice("required"), False)
    assert request.thinking == Thinking(budget=2048)
    assert (request.stop, request.top_k, request.extra) == (("END",), 4, {})
    asked = chat_body(request)
    assert [each["role"] for each in asked["messages"]] == ["system", "user", "assistant", "tool", "user"]
    assert asked["messages"][3]["content"] == "Error: no"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ((Text("no"),), "Error: no"),
        ((Text("no such file"), Text("look again")), "Error: no such file\n\nlook again"),
        ((Text("ERROR 404"),), "ERROR 404"),
        ((Text("error: no"),), "error: no"),
        ((), "Error"),
        ((Image("image/png", "aa"),), "Error"),
    ],
)
def test_that_a_tool_failed_is_told_to_each_provider_in_its_own_way(
    content: tuple[Text | Image, ...], told: str
) -> None:
    called = Turn("assistant", (ToolCall("t1", "look", "{}"),))

    def sent(failed: bool) -> Request:
        return Request((called, Turn("user", (ToolResult("t1", content, failed),))), max_tokens=9)

    words = "\n\n".join(each.text for each in content if isinstance(each, Text))
    for is_error, expected in ((True, told), (False, words)):
        request = sent(is_error)
        results = [each for each in chat_body(request)["messages"] if each["role"] == "tool"]
        assert [each["content"] for each in results] == [expected]
        if not any(isinstance(each, Image) for each in content):
            (result,) = [
                each
                for each in json.loads(write_chat(request, model="m", stream=False))["messages"]
                if each["role"] == "tool"
            ]
            assert result["content"] == expected
        (turn,) = json.loads(write_converse(request, model="m"))["messages"][1:]
        assert turn["content"][0]["toolResult"].get("status") == ("error" if is_error else None)
        (turn,) = json.loads(write_contents(request, model="m"))["contents"][1:]
        assert turn["parts"][0]["functionResponse"]["response"] == {"error" if is_error else "output": words}


def test_instructions_in_the_middle_of_a_conversation_stand_with_those_at_its_beginning() -> None:
    marked = {"cache_control": {"type": "ephemeral"}}
    body: dict[str, Any] = {
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": "one"},
            {"role": "system", "content": [{"type": "text", "text": "The file has changed.", **marked}]},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": "three"},
            {"role": "system", "content": "Five tokens are left."},
        ],
    }
    request = read_messages(body, 10)
    assert request.system == ("Be brief.", "The file has changed.", "Five tokens are left.")
    assert [(each.role, each.parts) for each in request.messages] == [
        ("user", (Text("one"),)),
        ("assistant", (Text("two"),)),
        ("user", (Text("three"),)),
    ]
    # To Anthropic itself they go where the client put them.
    read = read_message({"model": "m", "max_tokens": 9, **body})
    sent = SharedMessages().shared_body(read.body, model="claude", max_tokens=9, stream=False)
    assert json.loads(sent)["messages"] == body["messages"]
    asked = {"messages": [{"role": "user", "content": "one"}, {"role": "developer", "content": "two"}]}
    assert read_chat(asked, 10).system == ("two",)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"messages": [{"role": "system", "content": "alone"}]}, "messages"),
        ({"context_management": {"edits": []}}, "context_management"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"thinking": {"type": "between_tools"}}, "thinking.type"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0]"),
        ({"tools": [{"name": "x", "input_schema": SCHEMA, "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages[0].content[0]"),
        ({"output_config": {"task_budget": {}}}, "output_config.task_budget"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "messages[1]",
        ),
    ],
)
def test_what_no_other_provider_has_a_word_for_is_named(more: dict[str, Any], param: str) -> None:
    with pytest.raises(Unsupported) as caught:
        read_messages({"messages": [{"role": "user", "content": "hello"}], **more}, 10)
    assert caught.value.param == param


HELLO: dict[str, Any] = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}


def blocks(*content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(content)}]}


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "messages[0].name"),
        (blocks({"text": "x"}), "messages[0].content[0]"),
        (blocks({"type": "tool_use", "id": "a", "name": "b", "input": "{}"}), "messages[0].content[0].input"),
        (
            blocks({"type": "image", "source": {"type": "url", "url": "http://169.254.169.254/"}}),
            "messages[0].content[0].source.url",
        ),
        (
            blocks({"type": "document", "source": {"type": "url", "url": "https://127.0.0.1/a.pdf"}}),
            "messages[0].content[0].source.url",
        ),
        (
            blocks({"type": "document", "source": {"type": "file", "file_id": "file_1"}}),
            "messages[0].content[0].source",
        ),
        (blocks({"type": "container_upload", "file_id": "file_1"}), "messages[0].content[0]"),
        ({"temperature": 1.5}, "temperature"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"name": "x"}]}, "tools[0].input_schema"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"mcp_servers": [{"url": "https://evil.example"}]}, "mcp_servers"),
        ({"speed": "fast"}, "speed"),
        ({"api_base": "https://evil.example"}, "api_base"),
        ({"metadata": {"user_id": 7}}, "metadata.user_id"),
    ],
)
def test_a_bad_field_is_refused_by_name(more: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_message({**HELLO, **more})
    assert caught.value.param == param


def test_what_the_gateway_consumes_does_not_go_on_and_the_rest_does() -> None:
    read = read_message({**HELLO, "metadata": {"user_id": "ann"}, "stream": True, "future": 1})
    assert (read.end_user, read.max_tokens, read.stream, read.unknown) == ("ann", 9, True, ("future",))
    assert read.body == {"messages": HELLO["messages"], "future": 1}
    sent = SharedMessages().shared_body(read.body, model="claude", max_tokens=9, stream=True)
    assert json.loads(sent) == {
        "messages": HELLO["messages"],
        "future": 1,
        "model": "claude",
        "max_tokens": 9,
        "stream": True,
    }
    counted = read_count({name: HELLO[name] for name in ("model", "messages")})
    assert (counted.max_tokens, counted.stream, counted.text_bytes) == (0, False, 5)
