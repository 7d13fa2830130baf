"""Answers of providers of other dialects that are not as these write them: read for what they say, or refused, never half told."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from engines.adapter import Call
from engines.anthropic.answers import Messages
from engines.anthropic.client_writing import MessagesClient
from engines.bedrock.answers import Converse
from engines.canonical import Answer, Counted, Reasoning, ReasoningDelta, Stop, Text, ToolCall, Usage
from engines.cohere.answers import Cohere
from engines.dialects import EventReader
from engines.errors import EngineError, Garbled, Reason, Refused, Reported
from engines.gemini.answers import Gemini
from engines.openai_chat.provider import ChatReader
from engines.openai_chat.writing import ChatClient
from engines.providers import PROVIDERS
from engines.sse import MAX_EVENT
from engines.translated_stream import TranslatedStream
from engines.whole_answers import assembled
from gateway.providers.adapters import engine_of
from tests.providers import wires
from tests.providers.wires import sse

TEXT = Answer((Text("Hi"),), Stop.END, Usage(fresh=5, output=7))
IMPOSSIBLE = (
    Usage(fresh=-5, output=7),
    Usage(fresh=5, output=10**20),
    Usage(fresh=-4, cache_read=9, output=7),
)


def chat(reader: EventReader, data: bytes, *, show_usage: bool = True) -> list[Any]:
    """The chunks that a client of OpenAI's dialect gets of a stream."""
    writer = ChatClient().writer({}, show_usage=show_usage, model="m", now=1)
    stream = TranslatedStream(reader, writer, limit=10**6, most=None, show_usage=show_usage)
    out = stream.feed(data)
    if not stream.done:
        stream.ended()
        out += stream.feed(b"")
    return [json.loads(each.removeprefix("data: ")) for each in out.decode().split("\n\n") if each]


def test_arguments_that_are_told_where_a_call_begins_are_not_lost() -> None:
    called = Answer((ToolCall("a", "f", '{"x":1}'), ToolCall("b", "g", "{}")), Stop.TOOLS, TEXT.usage)
    events = [
        each
        for each in wires.anthropic_events(called)
        if each.get("delta", {}).get("type") != "input_json_delta"
    ]
    blocks = [each["content_block"] for each in events if each["type"] == "content_block_start"]
    blocks[0]["input"] = {"x": 1}
    told = assembled(Messages().reader().read(sse(*((each["type"], each) for each in events))))
    assert told.parts == called.parts


@pytest.mark.parametrize("usage", IMPOSSIBLE)
def test_a_client_is_told_no_count_that_cannot_be(usage: Usage) -> None:
    lied = Answer(TEXT.parts, TEXT.stop, usage)
    for reader, data in (
        (Messages().reader(), wires.anthropic_stream(lied)),
        (Converse().reader(), wires.bedrock_stream(lied)),
    ):
        *words, last = chat(reader, data)
        assert "".join(each["choices"][0]["delta"].get("content", "") for each in words) == "Hi"
        # What was counted at the beginning, or here, is another matter.
        assert last["usage"] is None or last["usage"]["total_tokens"] == 6


def test_what_nobody_counted_is_not_told_as_nothing() -> None:
    begun = {"id": "c", "choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}
    uncounted = (
        (ChatReader(), sse(("", begun)) + b"data: [DONE]\n\n"),
        (Gemini().reader(), sse(("", {"candidates": [{"finishReason": "STOP"}]}))),
        (Cohere().reader(), sse(("", {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}}))),
    )
    for reader, data in uncounted:
        assert chat(reader, data)[-1]["usage"] is None
    assert all("usage" not in each for each in chat(Cohere().reader(), uncounted[2][1], show_usage=False))


def test_nothing_comes_after_the_end_of_an_answer() -> None:
    words = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "more"}}
    *events, last = wires.anthropic_events(TEXT)
    for more in (words, {"type": "content_block_start", "index": 1, "content_block": {"type": "text"}}):
        with pytest.raises(Garbled):
            chat(Messages().reader(), sse(*((each["type"], each) for each in (*events, more, last))))
    at_end, count = wires.bedrock_events(TEXT)[-2:]
    for more in (at_end, ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "more"}})):
        frames = [*wires.bedrock_events(TEXT)[:-1], more, count]
        with pytest.raises(Garbled):
            chat(
                Converse().reader(),
                b"".join(wires.frame(name, wires.dumped(payload)) for name, payload in frames),
            )


def test_thoughts_that_are_counted_as_null_are_none() -> None:
    usage = {"input_tokens": 5, "output_tokens": 7, "output_tokens_details": {"thinking_tokens": None}}
    body = {**wires.anthropic_plain(TEXT), "usage": usage}
    assert Messages().read_answer(json.dumps(body).encode()).usage == TEXT.usage
    told = json.loads(MessagesClient().write_answer(TEXT, {}, model="m", now=1))
    assert told["usage"]["output_tokens"] == 7


def anthropic(*events: dict[str, Any]) -> bytes:
    return sse(*((each["type"], each) for each in events))


@pytest.mark.parametrize(
    ("dialect", "data", "reason"),
    [
        *(
            (Messages, anthropic({"type": "error", "error": {"type": told}}), reason)
            for told, reason in (
                ("rate_limit_error", Reason.RATE_LIMITED),
                ("overloaded_error", Reason.OVERLOADED),
                ("authentication_error", Reason.CREDENTIAL),
                ("billing_error", Reason.QUOTA),
                ("of tomorrow", Reason.FAILED),
            )
        ),
        (
            Gemini,
            sse(("", {"error": {"code": 500, "status": "RESOURCE_EXHAUSTED"}})),
            Reason.RATE_LIMITED,
        ),
        (Gemini, sse(("", {"error": {"code": 503}})), Reason.OVERLOADED),
        # No answer that anybody could use, and what nobody knows yet.
        (Gemini, sse(("", {"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]})), Reason.FAILED),
        (Cohere, sse(("", {"type": "message-end", "delta": {"finish_reason": "ERROR"}})), Reason.FAILED),
        (Converse, wires.frame("throttlingException", b"{}", "exception"), Reason.RATE_LIMITED),
        (Converse, wires.frame("serviceUnavailableException", b"{}", "exception"), Reason.OVERLOADED),
        (
            Converse,
            wires.frame("messageStop", b'{"stopReason":"of tomorrow"}') + wires.frame("metadata", b"{}"),
            Reason.FAILED,
        ),
    ],
)
def test_what_a_stream_says_of_its_failure_is_what_it_comes_to(
    dialect: Any, data: bytes, reason: Reason
) -> None:
    with pytest.raises(Reported) as caught:
        dialect().reader().read(data)
    assert caught.value.reason is reason


def test_a_prompt_that_gemini_blocks_is_declined_and_of_its_candidates_the_first_is_the_answer() -> None:
    blocked = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 5}}
    assert Gemini().read_answer(json.dumps(blocked).encode()) == Answer((), Stop.FILTER, Usage(fresh=5))
    assert chat(Gemini().reader(), sse(("", blocked)))[-2]["choices"][0]["finish_reason"] == "content_filter"
    candidates = [
        {"index": at, "content": {"parts": [{"text": word}]}, "finishReason": "STOP"}
        for at, word in enumerate(("Hi", "Or so"))
    ]
    told = Gemini().read_answer(json.dumps({"candidates": candidates}).encode())
    assert told.parts == (Text("Hi"),)


def test_of_an_anthropic_stream_the_beginning_counts_its_input_and_an_end_has_a_reason() -> None:
    reader = Messages().reader()
    begun = {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 5}}}
    assert reader.read(anthropic(begun))[-1] == Counted(Usage(fresh=5), input_only=True)
    sealed = {"type": "redacted_thinking", "data": "sealed"}
    told = reader.read(anthropic({"type": "content_block_start", "index": 0, "content_block": sealed}))
    assert told == [ReasoningDelta(redacted="sealed")]
    with pytest.raises(Garbled):
        reader.read(anthropic({"type": "message_stop"}))


def test_no_more_was_thought_than_was_written() -> None:
    usage = {"input_tokens": 5, "output_tokens": 7, "output_tokens_details": {"thinking_tokens": 9}}
    body = {**wires.anthropic_plain(TEXT), "usage": usage}
    assert Messages().read_answer(json.dumps(body).encode()).usage == Usage(fresh=5, reasoning=7)


def test_an_event_of_awss_that_came_changed_or_in_half_is_no_event() -> None:
    whole = wires.bedrock_stream(TEXT)
    words = b'"text":"'
    at = whole.index(words) + len(words)
    with pytest.raises(Garbled):
        Converse().reader().read(whole[:at] + b"X" + whole[at + 1 :])
    # Its last event counts, and need not come; but half of it is a connection that broke.
    reader = Converse().reader()
    reader.read(whole[:-5])
    with pytest.raises(Garbled):
        reader.ended()


def test_an_event_of_awss_is_8_mib_at_most() -> None:
    with pytest.raises(Garbled):
        Converse().reader().read(wires.frame("contentBlockDelta", b"x" * (MAX_EVENT + 99))[:-9])


def test_the_proof_of_a_thought_comes_with_the_call_that_it_led_to() -> None:
    called = {"functionCall": {"name": "f", "id": "a", "args": {}}, "thoughtSignature": "why"}
    told = {"candidates": [{"content": {"parts": [called]}, "finishReason": "STOP"}]}
    assert Gemini().read_answer(json.dumps(told).encode()).parts == (ToolCall("a", "f", "{}", "why"),)


def test_the_plan_that_cohere_tells_before_its_calls_is_a_thought() -> None:
    call = {"id": "a", "function": {"name": "f", "arguments": "{}"}}
    told = {"message": {"tool_plan": "I look.", "tool_calls": [call]}, "finish_reason": "TOOL_CALL"}
    answer = Cohere().read_answer(json.dumps(told).encode())
    assert answer.parts == (Reasoning("I look."), ToolCall("a", "f", "{}"))
    piece = {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "I look."}}}
    assert Cohere().reader().read(sse(("", piece))) == [ReasoningDelta("I look.")]


class Opened:
    """The port `OpenResponse`, of an answer that has its head."""

    def __init__(self, status: int, kind: str) -> None:
        self.status = status
        self.headers = {"content-type": kind}
        self.closed = False

    async def rest(self) -> bytes:
        return b"{}"

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [(200, "application/json", Garbled), (200, "", Garbled), (500, "text/event-stream", Refused)],
)
@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini", "amazon-bedrock", "cohere"])
async def test_what_is_no_stream_is_not_read_as_one_and_its_connection_is_let_go(
    provider: str, status: int, kind: str, error: type[EngineError]
) -> None:
    opened = Opened(status, kind)

    async def open_(*_: object) -> Opened:
        return opened

    engine = engine_of(PROVIDERS[provider], cast("Any", SimpleNamespace(open=open_)))
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    with pytest.raises(error):
        await engine.open(Call("/v1/chat/completions", body, "m", 9, {}))
    assert opened.closed
