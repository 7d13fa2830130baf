"""An answer in the one form as Anthropic's message, plain and streamed.

Blocks come one after the other, each opened and closed once; the message begins with its first block, so that the count
of the input is in it wherever the provider tells it by then. `message_stop` is the terminal frame: it waits for the settlement.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from engines.anthropic.client_reading import read_messages
from engines.arguments import as_object
from engines.canonical import (
    Answer,
    Began,
    Counted,
    Ended,
    Event,
    Reasoning,
    ReasoningDelta,
    Refusal,
    RefusalDelta,
    Request,
    Stop,
    Text,
    TextDelta,
    ToolCall,
    ToolCallBegan,
    ToolCallDelta,
    Usage,
)
from engines.errors import Garbled

STOPPED = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_TEXT = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
    b'"delta":{"type":"text_delta","text":"'
)
_encode = msgspec.json.Encoder().encode
_STOP = {
    Stop.END: "end_turn",
    Stop.LENGTH: "max_tokens",
    Stop.TOOLS: "tool_use",
    Stop.SEQUENCE: "stop_sequence",
    Stop.FILTER: "refusal",
    Stop.REFUSAL: "refusal",
    Stop.PAUSE: "pause_turn",
}


class MessagesClient:
    """The port `ClientDialect` for /v1/messages."""

    def read_request(self, body: Mapping[str, Any], max_tokens: int | None) -> Request:
        return read_messages(body, max_tokens)

    def write_answer(self, answer: Answer, asked: Mapping[str, Any], *, model: str, now: int) -> bytes:
        del asked, now
        return _encode(
            {
                "id": _id(answer.id),
                "type": "message",
                "role": "assistant",
                "model": answer.model or model,
                "content": _content(answer),
                "stop_reason": _reason(answer.stop, any(isinstance(part, ToolCall) for part in answer.parts)),
                "stop_sequence": answer.sequence,
                "usage": wire_usage(answer.usage or Usage()),
            }
        )

    def writer(self, asked: Mapping[str, Any], *, show_usage: bool, model: str, now: int) -> MessagesWriter:
        del asked, show_usage, now
        return MessagesWriter(model=model)


class MessagesWriter:
    """The port `EventWriter`: one stream of a message's events."""

    __slots__ = ("_block", "_called", "_ended", "_id", "_model", "_open", "_started", "_usage")

    def __init__(self, *, model: str) -> None:
        self._model = model
        self._id: str | None = None
        self._started = False
        self._usage = Usage()
        self._block = -1
        """Index of the last block."""
        self._open: str | None = None
        """What the open block holds: `text`, `refusal`, `thinking`, or a call's arguments by its index."""
        self._called = False
        self._ended: Ended | None = None

    def write(self, events: Sequence[Event]) -> bytes:
        out: list[bytes] = []
        for event in events:
            # Nearly all there is of a stream, and twice as fast as a case of the match.
            if type(event) is TextDelta:
                self._text(out, "text", event.text)
                continue
            match event:
                case Counted(usage=usage):
                    self._usage = usage
                case ToolCallDelta():
                    self._arguments(out, event)
                case ToolCallBegan():
                    block = {"type": "tool_use", "id": event.id, "name": event.name, "input": {}}
                    self._called = True
                    self._begin(out, f"call {event.index}", block)
                case ReasoningDelta():
                    self._thought(out, event)
                case RefusalDelta(text=text):
                    self._text(out, "refusal", text)
                case Began():
                    self._id, self._model = event.id, event.model or self._model
                case Ended():
                    self._ended = event
                case _:
                    continue
        return b"".join(out)

    def more(self, texts: list[bytes]) -> bytes:
        begin, end = _TEXT % self._block, b'"}}\n\n'
        return b"%b%b%b" % (begin, (end + begin).join(texts), end) if texts else b""

    def finish(self) -> bytes:
        ended = self._ended or Ended(Stop.END)
        return self._end(_reason(ended.stop, self._called), ended.sequence, {})

    def cut(self, extra: Mapping[str, object]) -> bytes:
        return self._end("max_tokens", None, extra)

    def terminal(self) -> bytes:
        return STOPPED

    def failed(self, code: str, message: str) -> bytes:
        del code, message
        return b""

    def _end(self, reason: str, sequence: str | None, extra: Mapping[str, object]) -> bytes:
        out: list[bytes] = []
        self._start(out)
        self._close(out)
        last = {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": sequence},
            "usage": wire_usage(self._usage),
            **extra,
        }
        out.append(_frame("message_delta", last))
        return b"".join(out)

    def _start(self, out: list[bytes]) -> None:
        if self._started:
            return
        self._started = True
        message = {
            "id": _id(self._id),
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {**wire_usage(self._usage), "output_tokens": 0},
        }
        out.append(_frame("message_start", {"type": "message_start", "message": message}))

    def _begin(self, out: list[bytes], holds: str, block: dict[str, Any]) -> None:
        self._start(out)
        self._close(out)
        self._block += 1
        self._open = holds
        started = {"type": "content_block_start", "index": self._block, "content_block": block}
        out.append(_frame("content_block_start", started))

    def _close(self, out: list[bytes]) -> None:
        if self._open is None:
            return
        self._open = None
        out.append(_frame("content_block_stop", {"type": "content_block_stop", "index": self._block}))

    def _delta(self, out: list[bytes], kind: bytes, name: bytes, value: str) -> None:
        out.append(
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
            b'"delta":{"type":"%b","%b":%b}}\n\n' % (self._block, kind, name, _encode(value))
        )

    def _text(self, out: list[bytes], holds: str, text: str) -> None:
        if not text:
            return
        if self._open != holds:
            self._begin(out, holds, {"type": "text", "text": ""})
        self._delta(out, b"text_delta", b"text", text)

    def _thought(self, out: list[bytes], event: ReasoningDelta) -> None:
        if event.redacted:
            self._begin(out, "sealed", {"type": "redacted_thinking", "data": event.redacted})
            return
        if not (event.text or event.signature):
            return
        if self._open != "thinking":
            self._begin(out, "thinking", {"type": "thinking", "thinking": "", "signature": ""})
        if event.text:
            self._delta(out, b"thinking_delta", b"thinking", event.text)
        if event.signature:
            self._delta(out, b"signature_delta", b"signature", event.signature)
            # A thought with its proof is whole; the next one is another's.
            self._close(out)

    def _arguments(self, out: list[bytes], event: ToolCallDelta) -> None:
        if not event.arguments:
            return
        if self._open != f"call {event.index}":
            raise Garbled("arguments of a call that is over")
        self._delta(out, b"input_json_delta", b"partial_json", event.arguments)


def _reason(stop: Stop, called: bool) -> str:
    """Why it ended; some that are made to call a tool say no more of it than that they stopped."""
    return _STOP[Stop.TOOLS if called and stop is Stop.END else stop]


def wire_usage(usage: Usage) -> dict[str, Any]:
    """The counts in Anthropic's way: input beside what was cached, thoughts a part of the output."""
    told: dict[str, Any] = {
        "input_tokens": usage.fresh,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cache_read,
        "output_tokens": usage.completion,
    }
    if usage.reasoning:
        told["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    return told


def _content(answer: Answer) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    for part in answer.parts:
        match part:
            case Text(text=text) | Refusal(text=text):
                if text:
                    blocks.append({"type": "text", "text": text})
            case Reasoning(redacted=redacted) if redacted:
                blocks.append({"type": "redacted_thinking", "data": redacted})
            case Reasoning():
                blocks.append({"type": "thinking", "thinking": part.text, "signature": part.signature})
            case ToolCall():
                called = msgspec.Raw(as_object(part.arguments).encode())
                blocks.append({"type": "tool_use", "id": part.id, "name": part.name, "input": called})
    return blocks


def _frame(name: str, event: Mapping[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _encode(event))


def _id(given: str | None) -> str:
    return given if given and given.startswith("msg_") else f"msg_{given or secrets.token_hex(12)}"
