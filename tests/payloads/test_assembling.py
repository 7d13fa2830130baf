"""A stream's frames become the answer that the same call would have had whole."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.payloads.assembling import assembled


def frames(*events: Any, name: bool = False) -> bytes:
    return b"".join(
        (b"event: %s\n" % each["type"].encode() if name else b"")
        + b"data: "
        + msgspec.json.encode(each)
        + b"\n\n"
        for each in events
    )


def chunk(delta: dict[str, Any], index: int = 0, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [{"index": index, "delta": delta, "finish_reason": finish}], **more,
    }  # fmt: skip


def test_a_chat_stream_is_one_completion_with_its_usage() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    told = frames(
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "Hel"}),
        chunk({"content": "lo"}, finish="stop"),
        {**chunk({}), "choices": [], "usage": usage},
    )
    assert msgspec.json.decode(assembled(told + b"data: [DONE]\n\n")) == {
        "id": "c1", "object": "chat.completion", "created": 1, "model": "m", "usage": usage,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}
        ],
    }  # fmt: skip


def test_calls_of_tools_come_together_piece_by_piece_and_choices_side_by_side() -> None:
    told = frames(
        chunk({"role": "assistant", "tool_calls": [{"index": 0, "id": "t1", "type": "function", "function": {"name": "f", "arguments": ""}}]}),
        chunk({"content": "second"}, index=1),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}, finish="tool_calls"),
    )  # fmt: skip
    choices = msgspec.json.decode(assembled(told))["choices"]
    assert choices[0]["message"]["tool_calls"] == [
        {"type": "function", "id": "t1", "function": {"name": "f", "arguments": '{"a":1}'}}
    ]
    assert choices[1]["message"] == {"content": "second"}


def test_a_text_completion_is_joined() -> None:
    piece = {
        "id": "c",
        "object": "text_completion",
        "choices": [{"index": 0, "text": "ab", "finish_reason": None}],
    }
    last = {**piece, "choices": [{"index": 0, "text": "c", "finish_reason": "length"}]}
    assert msgspec.json.decode(assembled(frames(piece, last)))["choices"] == [
        {"index": 0, "text": "abc", "finish_reason": "length"}
    ]


def test_messages_come_together_with_thoughts_and_the_input_of_tools() -> None:
    told = frames(
        {"type": "message_start", "message": {"id": "m", "role": "assistant", "content": [], "usage": {"input_tokens": 3}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "yes"}},
        {"type": "content_block_start", "index": 2, "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}}},
        {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"a": 1}'}},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 4}},
        {"type": "message_stop"},
        name=True,
    )  # fmt: skip
    assert msgspec.json.decode(assembled(told)) == {
        "id": "m", "role": "assistant", "stop_reason": "tool_use", "usage": {"input_tokens": 3, "output_tokens": 4},
        "content": [
            {"type": "thinking", "thinking": "hm"},
            {"type": "text", "text": "yes"},
            {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
        ],
    }  # fmt: skip


def test_a_response_is_what_its_last_event_says() -> None:
    told = frames(
        {"type": "response.created", "response": {"id": "r"}},
        {"type": "response.completed", "response": {"id": "r", "output": []}},
    )
    assert msgspec.json.decode(assembled(told)) == {"id": "r", "output": []}


def test_what_is_in_no_known_shape_is_kept_event_by_event() -> None:
    assert msgspec.json.decode(assembled(frames({"odd": 1}, {"odd": 2}))) == {
        "events": [{"odd": 1}, {"odd": 2}]
    }


@pytest.mark.parametrize("cut", range(0, 400, 7))
def test_a_stream_that_was_cut_anywhere_gives_what_had_come(cut: int) -> None:
    told = frames(chunk({"role": "assistant", "content": "Hel"}), chunk({"content": "lo"}))
    got = assembled(told[:cut])
    if got:
        assert "Hello".startswith(msgspec.json.decode(got)["choices"][0]["message"]["content"])
    else:
        assert cut < len(frames(chunk({"role": "assistant", "content": "Hel"})))
