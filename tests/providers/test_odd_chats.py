"""Answers of OpenAI's family that are not as OpenAI writes them: each is read for what it says, and none loses a word."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engines.anthropic.client_writing import MessagesClient
from engines.anthropic.requests import write_messages
from engines.canonical import Answer, Reasoning, Stop, Text, TextDelta, ToolCall, ToolCallBegan
from engines.chat_stream import ChatStream
from engines.cohere.requests import write_chat
from engines.errors import Garbled, Unsupported
from engines.gemini.requests import write_contents
from engines.openai_chat import calls
from engines.openai_chat.body import chat_body
from engines.openai_chat.provider import ChatReader, context_limit, read_chat_answer
from engines.openai_chat.writing import ChatClient
from engines.openai_responses.writing import ResponsesClient
from engines.sse import MAX_EVENT
from engines.whole_answers import assembled
from gateway.errors import BadRequest
from gateway.http.anthropic.requests import read_message
from tests.providers.wires import sse

DONE = b"data: [DONE]\n\n"
COUNTS = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> tuple[str, dict[str, Any]]:
    return "", {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def call(index: int, identity: str | None, name: str | None, arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"tool_calls": [{"index": index, "id": identity, "type": "function", "function": function}]}


def read(*chunks: tuple[str, dict[str, Any]], size: int = 0) -> Answer:
    """The answer of a stream, in pieces of that size."""
    data = sse(*chunks) + DONE
    reader = ChatReader()
    events = [
        event
        for at in range(0, len(data), size or len(data))
        for event in reader.read(data[at : at + (size or len(data))])
    ]
    return assembled(events + reader.ended())


def plain(message: dict[str, Any], finish: str = "stop") -> Answer:
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return read_chat_answer(json.dumps({"choices": [choice]}).encode())


def test_an_empty_finish_reason_ends_nothing() -> None:
    answer = read(chunk({"content": "Hel"}, ""), chunk({"content": "lo"}, ""), chunk({}, "length"))
    assert (answer.parts, answer.stop) == ((Text("Hello"),), Stop.LENGTH)


@pytest.mark.parametrize(
    "thought",
    [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "thinking", "thinking": "hm"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
    ],
)
def test_a_content_in_parts_is_read_plain_and_streamed(thought: dict[str, Any]) -> None:
    content = [thought, {"type": "text", "text": "Yes"}]
    expected = (Reasoning("hm"), Text("Yes"))
    assert plain({"content": content}).parts == expected
    chunks = (chunk({"content": [thought]}), chunk({"content": "Yes"}), chunk({}, "stop"))
    assert read(*chunks).parts == expected
    passed = ChatStream(show_usage=False, show_running=False, limit=100)
    assert passed.feed(sse(*chunks) + DONE).count(b"data: ") == 3
    assert passed.counted == 2


def test_calls_that_share_a_number_are_told_apart() -> None:
    answer = read(
        chunk(call(0, "a", "f", '{"x":')),
        chunk(call(0, "other", None, "1}")),  # an id alone makes no call
        chunk(call(0, "b", "f", '{"y":2}')),
        chunk({}, "tool_calls"),
    )
    assert answer.parts == (ToolCall("a", "f", '{"x":1}'), ToolCall("b", "f", '{"y":2}'))


@pytest.mark.parametrize("size", [0, 1, 37])
def test_calls_that_are_written_at_once_are_told_one_after_the_other(size: int) -> None:
    answer = read(
        chunk(call(3, "a", "f", "")),
        chunk(call(7, "b", "g", "")),
        chunk(call(7, None, None, '{"y":')),
        chunk(call(3, None, None, '{"x":1')),
        chunk(call(9, "c", "h", "{}")),
        chunk(call(7, None, None, "2}")),
        chunk(call(3, None, None, "}")),
        chunk({}, "tool_calls"),
        size=size,
    )
    told = (ToolCall("a", "f", '{"x":1}'), ToolCall("b", "g", '{"y":2}'), ToolCall("c", "h", "{}"))
    assert answer.parts == told


def test_a_call_that_goes_on_for_ever_is_not_read_from_its_beginning_for_each_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[int] = []
    decode = calls._decode
    monkeypatch.setattr(calls, "_MOST_LOOKED_AT", 500)
    monkeypatch.setattr(calls, "_decode", lambda text: looked.append(len(text)) or decode(text))
    pieces = ['{"x":[', *["{},{}"] * 200, "]}"]
    answer = read(
        chunk(call(0, "a", "f", "")),
        chunk(call(1, "b", "g", '{"y":2}')),
        *(chunk(call(0, None, None, piece)) for piece in pieces),
        chunk({}, "tool_calls"),
    )
    assert answer.parts == (ToolCall("a", "f", "".join(pieces)), ToolCall("b", "g", '{"y":2}'))
    assert 0 < sum(looked) < 1_000


def test_a_call_that_is_never_whole_keeps_none_from_being_told() -> None:
    cut = [{"function": {"name": "f", "arguments": '{"x'}}, {"function": {"name": "g", "arguments": "{}"}}]
    told = (ToolCall("call_0", "f", '{"x'), ToolCall("call_1", "g", "{}"))
    assert plain({"tool_calls": cut}, "length").parts == told
    with pytest.raises(Garbled):
        read(chunk(call(0, "a", "f", "{}")), chunk(call(1, "b", "g", "{}")), chunk(call(0, None, None, "1")))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"x": [1]}, {"x": [1]}),
        ('{"x": "\\ud83d"}', {"INVALID_JSON": '{"x": "\\ud83d"}'}),
        ("", {}),
        (" ", {}),
        ("null", {"INVALID_JSON": "null"}),
        ('{"city": "Zür', {"INVALID_JSON": '{"city": "Zür'}),
        ('{}}],"model":"other","x":[{', {"INVALID_JSON": '{}}],"model":"other","x":[{'}),
    ],
)
def test_whatever_a_call_is_written_with_a_message_is_json_and_has_it(arguments: Any, told: Any) -> None:
    answer = plain({"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": arguments}}]})
    message = json.loads(MessagesClient().write_answer(answer, {}, model="m", now=1))
    assert message["model"] == "m"
    assert message["content"] == [{"type": "tool_use", "id": "a", "name": "f", "input": told}]


def test_half_a_character_loses_nothing_else() -> None:
    data = sse(chunk({"content": "a\\ud83d"}), chunk({"content": "\\ude00 \\ud83d\\ude00 \\\\ud83d"}))
    data = data.replace(rb"\\ud83d\\ude00 ", rb"\ud83d\ude00 ").replace(rb"a\\ud83d", rb"a\ud83d")
    data = data.replace(rb'"\\ude00', rb'"\ude00') + sse(chunk({}, "stop")) + DONE
    reader = ChatReader()
    answer = assembled(reader.read(data))
    assert answer.parts == (Text("a\ufffd\ufffd \U0001f600 \\\\ud83d"),)
    passed = ChatStream(show_usage=False, show_running=False, limit=100)
    assert passed.feed(data) + DONE == data


def test_a_count_that_comes_with_words_reaches_who_asked_in_an_event_of_its_own() -> None:
    chunks = sse(chunk({"content": "Hi"}), chunk({}, "stop", usage=COUNTS))
    apart = sse(("", {"id": "c", "choices": [], "usage": COUNTS}))
    for own, more in ((chunks, apart), (chunks + apart, b"")):
        asked = ChatStream(show_usage=True, show_running=False, limit=100)
        told = asked.feed(own + DONE)
        assert told == sse(chunk({"content": "Hi"}), chunk({}, "stop")) + (more or apart)
        unasked = ChatStream(show_usage=False, show_running=False, limit=100)
        assert b"usage" not in unasked.feed(own + DONE)


def test_what_was_said_apart_stays_apart_where_it_becomes_one_text() -> None:
    result = {
        "type": "tool_result",
        "tool_use_id": "a",
        "content": [{"type": "text", "text": each} for each in "xy"],
    }
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "first"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "second\n"}, {"type": "text", "text": "third"}],
        },
        {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]},
        {"role": "user", "content": [result]},
    ]
    asked = MessagesClient().read_request({"messages": messages}, 9)
    sent = chat_body(asked)["messages"]
    assert [sent[0]["content"], sent[2]["content"]] == ["first\n\nsecond\nthird", "x\n\ny"]
    assert json.loads(write_chat(asked, model="m", stream=False))["messages"][2]["content"] == "x\n\ny"
    contents = json.loads(write_contents(asked, model="m"))["contents"]
    assert contents[2]["parts"][0]["functionResponse"]["response"] == {"output": "x\n\ny"}


def test_an_answer_of_nothing_is_left_out_for_who_takes_none() -> None:
    hello = {"role": "user", "content": "hello"}
    for client, nothing in ((ChatClient(), None), (ChatClient(), ""), (MessagesClient(), [])):
        asked = client.read_request(
            {"messages": [hello, {"role": "assistant", "content": nothing}, hello]}, 9
        )
        sent = json.loads(write_messages(asked, model="m", stream=False))["messages"]
        assert [each["role"] for each in sent] == ["user"]
        assert [each["text"] for each in sent[0]["content"]] == ["hello", "hello"]


def test_what_another_dialect_has_no_word_for_is_refused_and_what_no_answer_depends_on_is_not_sent() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    user = {"role": "user", "content": "hello"}
    with pytest.raises(Unsupported, match="instructions are texts"):
        ChatClient().read_request({"messages": [{"role": "system", "content": [picture]}, user]}, 9)
    for seed in (0, 42):
        with pytest.raises(Unsupported):
            write_messages(
                ChatClient().read_request({"messages": [user], "seed": seed}, 9), model="m", stream=False
            )
    hints = {"prompt_cache_key": "k", "safety_identifier": "s", "presence_penalty": 0}
    asked = ChatClient().read_request({"messages": [user], **hints}, 9)
    assert json.loads(write_messages(asked, model="m", stream=False)).keys() == {
        "model",
        "max_tokens",
        "messages",
    }


@pytest.mark.parametrize("written", ['{"city": "Z', "[1]", "null"])
def test_a_conversation_goes_on_after_a_call_whose_arguments_were_no_object(written: str) -> None:
    function = {"name": "f", "arguments": written}
    calls = [{"id": "a", "type": "function", "function": function}]
    user = {"role": "user", "content": "hello"}
    asked = ChatClient().read_request({"messages": [user, {"role": "assistant", "tool_calls": calls}]}, 9)
    item = {"type": "function_call", "call_id": "a", **function}
    again = ResponsesClient().read_request({"input": [user, item]}, 9)
    for request in (asked, again):
        sent = json.loads(write_messages(request, model="m", stream=False))["messages"][1]["content"]
        assert sent == [{"type": "tool_use", "id": "a", "name": "f", "input": {"INVALID_JSON": written}}]


@pytest.mark.parametrize("odd", [{}, [], 1.5, True, ["high"]])
def test_how_to_think_and_what_to_write_are_refused_by_name_where_they_are_of_no_such_kind(odd: Any) -> None:
    user = {"messages": [{"role": "user", "content": "hello"}]}
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (ChatClient(), {"reasoning_effort": odd}, "reasoning_effort"),
        (MessagesClient(), {"output_config": {"effort": odd}}, "output_config.effort"),
        (MessagesClient(), {"output_config": {"format": odd}}, "output_config.format"),
        (MessagesClient(), {"thinking": {"type": "enabled", "budget_tokens": odd}}, "thinking.budget_tokens"),
    ]
    for client, more, param in wrong:
        with pytest.raises(Unsupported) as refused:
            client.read_request({**user, **more}, 9)
        assert refused.value.param == param


@pytest.mark.parametrize("kind", [{}, [], None, 1])
def test_a_picture_of_no_such_kind_is_refused_by_name(kind: Any) -> None:
    picture = {"type": "image", "source": {"type": "base64", "media_type": kind, "data": "iVBORw0KGgo="}}
    with pytest.raises(BadRequest) as refused:
        read_message({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": [picture]}]})
    assert refused.value.param == "messages[0].content[0].source"


def test_what_waits_for_the_end_of_an_earlier_call_is_8_mib_at_most() -> None:
    found = calls.Calls()
    found.take(0, "a", "f", '{"x":', "")
    assert found.take(1, "b", "g", "y" * (MAX_EVENT - 4_096), "") == []
    with pytest.raises(Garbled):
        found.take(1, None, None, "y" * 8_192, "")


def test_a_call_is_told_as_soon_as_the_one_before_it_is_whole_and_nothing_of_one_that_is_over() -> None:
    found = calls.Calls()
    told = found.take(0, "a", "f", '{"x":1} \n', "")
    for number, identity, arguments in ((1, "b", '{"y":2}'), (2, "c", "{}")):
        told += found.take(number, identity, "g", arguments, "")
    assert [each.index for each in told if isinstance(each, ToolCallBegan)] == [0, 1, 2]
    with pytest.raises(Garbled):
        found.take(0, None, None, "more", "")
    with pytest.raises(Garbled):
        found.take(3, "d", None, "{}", "")


@pytest.mark.parametrize(
    ("choice", "answer"),
    [
        (
            {"message": {"reasoning": "Hm.", "content": "Hi"}, "finish_reason": "stop"},
            Answer((Reasoning("Hm."), Text("Hi")), Stop.END),
        ),
        (
            {"message": {"content": "Hi"}, "finish_reason": "stop", "stop_reason": "END"},
            Answer((Text("Hi"),), Stop.SEQUENCE, sequence="END"),
        ),
        # vLLM names a token that stopped it by its number.
        (
            {"message": {"content": "Hi"}, "finish_reason": "stop", "stop_reason": 7},
            Answer((Text("Hi"),), Stop.END),
        ),
        ({"message": {"content": "Hi"}, "finish_reason": "function_call"}, Answer((Text("Hi"),), Stop.TOOLS)),
    ],
)
def test_the_words_that_some_of_the_family_have_for_it_are_understood(
    choice: dict[str, Any], answer: Answer
) -> None:
    assert read_chat_answer(json.dumps({"choices": [choice]}).encode()) == answer


def test_of_several_choices_a_translated_stream_is_the_first() -> None:
    choices = [{"index": at, "delta": {"content": word}} for at, word in enumerate(("Hi", "Or so"))]
    told = ChatReader().read(sse(("", {"choices": choices})))
    assert [each for each in told if isinstance(each, TextDelta)] == [TextDelta("Hi")]


def test_an_answer_without_an_end_is_none_and_a_refusal_names_the_context() -> None:
    with pytest.raises(Garbled):
        ChatReader().read(b"data: [DONE]\n\n")
    with pytest.raises(Garbled):
        read_chat_answer(b'{"choices":[{"message":{"content":"Hi"}}]}')
    assert context_limit(b"This model's maximum context length is 4096 tokens.") == 4_096
    assert context_limit(b"too long") == 0
