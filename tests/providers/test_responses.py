"""Every provider's answers as OpenAI's Responses: events in OpenAI's order, held against its published types.

What the events of a stream add up to, what its last event tells, and what a plain call gets are the same answer.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from engines.canonical import (
    Answer,
    Began,
    Counted,
    Ended,
    Image,
    Reasoning,
    ReasoningDelta,
    Stop,
    Text,
    TextDelta,
    ToolCallBegan,
    ToolCallDelta,
    ToolResult,
    Usage,
)
from engines.errors import Garbled, Unsupported
from engines.openai_chat.body import chat_body
from engines.openai_chat.provider import ChatReader
from engines.openai_responses.items import read_item
from engines.openai_responses.reading import read_responses
from engines.openai_responses.writing import ResponsesClient, ResponsesWriter
from engines.translated_stream import TranslatedStream
from tests.providers import wires
from tests.providers.cases import CASES
from tests.providers.test_codecs import MATRIX, PROVIDERS

CLIENT = ResponsesClient()
ASKED: dict[str, Any] = {
    "input": "Hello",
    "instructions": "Be brief.",
    "max_output_tokens": 64,
    "metadata": {"team": "a"},
    "tools": [
        {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False},
        {"type": "custom", "name": "patch", "format": {"type": "text"}},
    ],
    "tool_choice": "required",
    "temperature": 0.5,
}
_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
_ID = re.compile(r"\b(?:resp|msg|fc|ctc|rs)_[0-9a-f]{48}")


def writer() -> ResponsesWriter:
    return CLIENT.writer(ASKED, show_usage=True, model="m", now=1)


def events_of(frames: bytes, *, held: bool = True) -> list[dict[str, Any]]:
    """The events of a stream under their own names, counted from 0; `held`: against the published types."""
    found: list[dict[str, Any]] = []
    for frame in frames.decode().split("\n\n"):
        if not frame:
            continue
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        if held:
            _EVENT.validate_json(data.removeprefix("data: "))
        found.append(event)
    assert [each["sequence_number"] for each in found] == list(range(len(found)))
    return found


def anonymous(value: Any) -> Any:
    """Without what is made up anew for each answer."""
    return json.loads(_ID.sub("id", json.dumps(value)))


def added_up(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The output that the events make, from deltas alone; each item is opened and closed once, in order."""
    items: list[dict[str, Any]] = []
    open_ = -1
    for event in events:
        kind = event["type"].removeprefix("response.")
        at = event.get("output_index")
        if kind == "output_item.added":
            assert open_ == -1
            open_ = at
            assert at == len(items)
            assert event["item"]["status"] == "in_progress"
            items.append(json.loads(json.dumps(event["item"])))
            continue
        if at is None:
            continue
        assert at == open_
        item = items[at]
        if kind == "output_item.done":
            # Status, a call without arguments and a proof are known at the end only.
            assert item | {
                name: event["item"][name] for name in ("status", "encrypted_content") if name in event["item"]
            } == event["item"] | {name: item[name] for name in ("arguments", "input") if name in item}
            items[at] = event["item"]
            open_ = -1
            continue
        assert event.get("item_id", item["id"]) == item["id"]
        if kind == "function_call_arguments.delta":
            item["arguments"] += event["delta"]
        elif kind == "function_call_arguments.done":
            assert event["arguments"] == (item["arguments"] or "{}")
        elif kind == "custom_tool_call_input.delta":
            item["input"] += event["delta"]
        elif kind == "custom_tool_call_input.done":
            assert event["input"] == item["input"]
        elif kind == "content_part.added":
            assert event["content_index"] == len(item["content"])
            item["content"].append(event["part"])
        else:
            part = item["content"][event["content_index"]]
            text = "refusal" if part["type"] == "refusal" else "text"
            if kind == "content_part.done":
                assert event["part"] == part
            elif kind.endswith(".delta"):
                part[text] += event["delta"]
            else:
                assert event[text] == part[text]
    assert open_ == -1
    return items


@pytest.mark.parametrize(("name", "case"), MATRIX)
def test_a_stream_adds_up_to_the_plain_answer_and_ends_once_whatever_its_boundaries(
    name: str, case: str
) -> None:
    provider, answer = PROVIDERS[name], CASES[case]
    body = CLIENT.write_answer(provider.read(wires.dumped(provider.plain(answer))), ASKED, model="m", now=1)
    plain = json.loads(body)
    Response.model_validate_json(body, strict=True)
    data = provider.stream(answer)
    told: list[Any] = []
    for size in (1, 7, len(data)):
        stream = TranslatedStream(provider.reader(), writer(), limit=10_000, most=None, show_usage=True)
        out = b"".join(stream.feed(data[at : at + size]) for at in range(0, len(data), size))
        stream.ended()
        out += stream.feed(b"")
        assert stream.done
        assert b"response.completed" not in out
        assert b"response.incomplete" not in out
        events = events_of(out + stream.terminal(), held=size == 1)
        assert [each["type"] for each in events[:2]] == ["response.created", "response.in_progress"]
        assert events[0]["response"]["output"] == []
        assert events[-1]["type"] == f"response.{plain['status']}"
        ended = events[-1]["response"]
        assert ended["output"] == added_up(events)
        assert {each["response"]["id"] for each in events if "response" in each} == {ended["id"]}
        assert anonymous(ended) == anonymous(plain)
        told.append(anonymous(events))
    # Reading in larger pieces changes nothing at all.
    assert told[0] == told[1] == told[2]


def test_an_answer_repeats_what_was_asked_and_counts_in_openais_words() -> None:
    answer = Answer(
        (Text("Hi"),), Stop.END, Usage(fresh=5, cache_read=3, cache_write=2, output=4, reasoning=6), model="x"
    )
    told = json.loads(CLIENT.write_answer(answer, ASKED, model="m", now=7))
    for name in ("instructions", "max_output_tokens", "metadata", "tools", "tool_choice", "temperature"):
        assert told[name] == ASKED[name]
    assert (told["model"], told["created_at"], told["store"], told["status"]) == ("x", 7, False, "completed")
    assert told["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 2},
        "output_tokens": 10,
        "output_tokens_details": {"reasoning_tokens": 6},
        "total_tokens": 20,
    }
    assert len(told["id"]) <= 64


@pytest.mark.parametrize(
    ("stop", "reason"),
    [(Stop.LENGTH, "max_output_tokens"), (Stop.FILTER, "content_filter"), (Stop.REFUSAL, "content_filter")],
)
def test_an_answer_that_is_not_whole_says_why(stop: Stop, reason: str) -> None:
    told = json.loads(CLIENT.write_answer(Answer((Text("Hi"),), stop), ASKED, model="m", now=1))
    assert (told["status"], told["incomplete_details"]) == ("incomplete", {"reason": reason})
    assert told["output"][0]["status"] == "incomplete"


def test_a_stream_that_the_gateway_ends_closes_what_is_open_and_says_which_limit() -> None:
    stream = writer()
    out = stream.write([Began(None, "x"), TextDelta("Hel"), Counted(Usage(fresh=2, output=1))])
    out += stream.cut({"weighbridge": {"stopped_by": "limit"}})
    events = events_of(out + stream.terminal())
    assert [each["type"] for each in events[-4:]] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    ended = events[-1]["response"]
    assert ended["incomplete_details"] == {"reason": "max_output_tokens"}
    assert ended["weighbridge"] == {"stopped_by": "limit"}
    assert ended["output"] == added_up(events)
    assert ended["usage"]["total_tokens"] == 3


@pytest.mark.parametrize("before", [[], [Began(None, "x"), TextDelta("Hel")]])
def test_a_stream_that_fails_ends_with_one_event_that_says_so(before: list[Any]) -> None:
    stream = writer()
    events = events_of(stream.write(before) + stream.failed("upstream_error", "It broke."))
    assert [each["type"] for each in events].count("response.failed") == 1
    failed = events[-1]["response"]
    assert failed["status"] == "failed"
    assert failed["error"] == {"code": "server_error", "message": "It broke.", "type": "upstream_error"}
    assert len(failed["output"]) == (1 if before else 0)


def test_arguments_of_a_call_that_is_over_are_no_answer() -> None:
    calls = [ToolCallBegan(0, "a", "look"), ToolCallBegan(1, "b", "look"), ToolCallDelta(0, "{}")]
    with pytest.raises(Garbled):
        writer().write([Began(), *calls])


def test_thoughts_come_back_with_their_proof_or_sealed() -> None:
    stream = writer()
    said = [
        ReasoningDelta("Let me "),
        ReasoningDelta("see.", signature="p=="),
        ReasoningDelta(redacted="zzz"),
        ToolCallBegan(0, "call_1", "look"),
        ToolCallDelta(0, '{"a":1}'),
        Ended(Stop.TOOLS),
    ]
    events = events_of(stream.write([Began(), *said]) + stream.finish() + stream.terminal())
    output = events[-1]["response"]["output"]
    assert [each["type"] for each in output] == ["reasoning", "reasoning", "function_call"]
    again = read_responses({"input": [{"role": "user", "content": "?"}, *output]}, None)
    assert again.messages[1].parts[:2] == (Reasoning("Let me see.", "p=="), Reasoning(redacted="zzz"))
    other = {**output[0], "encrypted_content": "of someone else"}
    assert read_responses({"input": [other]}, None).messages[0].parts == (Reasoning("Let me see."),)


CONVERSATION: list[dict[str, Any]] = [
    {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be exact."}]},
    {"role": "user", "content": [{"type": "input_text", "text": "Context."}]},
    {
        "role": "user",
        "content": [
            {"type": "input_text", "text": "Look."},
            {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"},
        ],
    },
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]},
    {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "look", "arguments": '{"a":1}'},
    {"type": "function_call", "call_id": "c2", "name": "look", "arguments": "", "status": "completed"},
    {"type": "function_call_output", "call_id": "c1", "output": "one"},
    {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}]},
    {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Seen.", "annotations": []}],
    },
    {"role": "user", "content": "Thanks."},
]


def test_a_conversation_becomes_what_a_provider_of_chat_is_asked() -> None:
    asked = read_responses(
        {
            "input": CONVERSATION,
            "instructions": "You are a weighbridge.",
            "tools": ASKED["tools"][:1],
            "tool_choice": {"type": "function", "name": "look"},
            "parallel_tool_calls": False,
            "text": {
                "format": {"type": "json_schema", "name": "x", "strict": True, "schema": {"type": "object"}}
            },
            "reasoning": {"effort": "low", "summary": "auto"},
            "store": None,
            "include": ["reasoning.encrypted_content"],
            "prompt_cache_key": "k",
            "top_p": 0.5,
        },
        32,
    )
    assert asked.max_tokens == 32
    body = chat_body(asked)
    assert body == {
        "messages": [
            {"role": "system", "content": "You are a weighbridge."},
            {"role": "system", "content": "Be exact."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Context."},
                    {"type": "text", "text": "\n\nLook."},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}},
                    {"id": "c2", "type": "function", "function": {"name": "look", "arguments": "{}"}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "one"},
            {"role": "tool", "tool_call_id": "c2", "content": "two"},
            {"role": "assistant", "content": "Seen."},
            {"role": "user", "content": "Thanks."},
        ],
        "top_p": 0.5,
        "tools": [
            {
                "type": "function",
                "function": {"name": "look", "parameters": {"type": "object"}, "strict": False},
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
        "parallel_tool_calls": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True},
        },
        "reasoning_effort": "low",
    }


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"max_tool_calls": 3}, "max_tool_calls"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": None}, "input"),
        ({"input": ["hello"]}, "input[0]"),
        ({"input": [{"role": "system", "content": "alone"}]}, "input"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": [{"type": "web_search_call", "id": "ws"}]}, "input[0]"),
        (
            {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": ["a"]}]},
            "input[0].arguments",
        ),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        ({"input": [{"type": "reasoning", "summary": "x"}]}, "input[0].summary"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "custom"}]}, "tools[0].name"),
        ({"tools": [{"type": "custom", "name": "x", "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": [{"type": "function", "name": "x", "async": True}]}, "tools[0].async"),
        ({"tools": [{"type": "custom", "name": "x", "allowed_callers": 5}]}, "tools[0].allowed_callers"),
        (
            {"tools": [{"type": "function", "name": "x", "allowed_callers": ["programmatic"]}]},
            "tools[0].allowed_callers",
        ),
        ({"tools": [{"type": "custom", "name": "x", "description": 5}]}, "tools[0].description"),
        ({"tools": [{"type": "custom", "name": "x", "format": {"type": "json"}}]}, "tools[0].format"),
        (
            {"tools": [{"type": "custom", "name": "x", "format": {"type": "grammar", "syntax": "peg"}}]},
            "tools[0].format",
        ),
        ({"input": [{"type": "custom_tool_call", "call_id": "c", "name": "x"}]}, "input[0].input"),
        ({"input": [{"type": "custom_tool_call", "name": "x", "input": ""}]}, "input[0].call_id"),
        ({"tools": "x"}, "tools"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format"),
        ({"text": {"other": 1}}, "text.other"),
        ({"text": "x"}, "text"),
        ({"reasoning": {"effort": "vast"}}, "reasoning.effort"),
        ({"reasoning": {"context": "x"}}, "reasoning.context"),
        ({"instructions": 5}, "instructions"),
        ({"parallel_tool_calls": "yes"}, "parallel_tool_calls"),
    ],
)
def test_what_cannot_be_kept_or_understood_is_refused_by_name(more: dict[str, Any], param: str) -> None:
    with pytest.raises(Unsupported) as caught:
        read_responses({"input": "Hello", **more}, None)
    assert caught.value.param == param


def test_what_a_provider_may_know_goes_on_and_what_asks_for_nothing_does_not() -> None:
    asked = read_responses(
        {
            "input": "x",
            "service_tier": "flex",
            "text": {"verbosity": "low"},
            "metadata": {"a": "b"},
            "truncation": "disabled",
            "background": False,
            "novel": 1,
        },
        None,
    )
    assert asked.extra == {"service_tier": "flex", "verbosity": "low", "novel": 1}


def test_a_vllm_stream_that_counts_as_it_runs_is_a_response_too() -> None:
    data = wires.openai_stream(CASES["text"])
    stream = TranslatedStream(ChatReader(running=True), writer(), limit=10_000, most=None, show_usage=True)
    out = stream.feed(data)
    assert events_of(out + stream.terminal())[-1]["type"] == "response.completed"


def test_pictures_among_what_a_tool_gave_are_handed_on() -> None:
    output = [
        {"type": "input_text", "text": "see"},
        {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
    ]
    for kind in ("function_call_output", "custom_tool_call_output"):
        item = {"type": kind, "call_id": "c", "output": output}
        (result,) = read_item(item, "input[0]").parts
        assert result == ToolResult("c", (Text("see"), Image(media_type="image/png", data="AAAA")))
