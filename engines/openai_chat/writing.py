"""An answer in the one form as OpenAI's chat completion, plain and streamed.

Frames follow OpenAI's order: the role first, the end once, usage after it and only where it was asked for. `[DONE]` is
not written here: it waits for the settlement.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

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
    Text,
    TextDelta,
    ToolCall,
    ToolCallBegan,
    ToolCallDelta,
    Usage,
)
from engines.chat_stream import DONE
from engines.openai_chat.reading import read_chat

_encode = msgspec.json.Encoder().encode


class ChatClient:
    """The port `ClientDialect` for /v1/chat/completions."""

    def read_request(self, body: Mapping[str, Any], max_tokens: int | None) -> Request:
        return read_chat(body, max_tokens)

    def write_answer(self, answer: Answer, asked: Mapping[str, Any], *, model: str, now: int) -> bytes:
        del asked  # A chat completion repeats nothing of it.
        message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
        text = "".join(part.text for part in answer.parts if isinstance(part, Text))
        refusal = "".join(part.text for part in answer.parts if isinstance(part, Refusal))
        thought = "".join(part.text for part in answer.parts if isinstance(part, Reasoning))
        calls = [part for part in answer.parts if isinstance(part, ToolCall)]
        if text or not (calls or refusal):
            message["content"] = text
        if refusal:
            message["refusal"] = refusal
        if thought:
            message["reasoning_content"] = thought
        if calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments or "{}"},
                    **_signed(call.signature),
                }
                for call in calls
            ]
        body: dict[str, Any] = {
            "id": _id(answer.id),
            "object": "chat.completion",
            "created": now,
            "model": answer.model or model,
            "choices": [
                {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.stop.finish_reason}
            ],
        }
        if answer.usage is not None:
            body["usage"] = wire_usage(answer.usage)
        return _encode(body)

    def writer(self, asked: Mapping[str, Any], *, show_usage: bool, model: str, now: int) -> ChatWriter:
        del asked  # A chat completion repeats nothing of it.
        return ChatWriter(show_usage=show_usage, model=model, now=now)


class ChatWriter:
    """The port `EventWriter`: one stream of chunks."""

    __slots__ = ("_called", "_head", "_id", "_model", "_now", "_show_usage", "_tail", "_usage")

    def __init__(self, *, show_usage: bool, model: str, now: int) -> None:
        self._show_usage = show_usage
        self._model = model
        self._now = now
        self._id: str | None = None
        self._head = b""
        self._tail = b',"usage":null}\n\n' if show_usage else b"}\n\n"
        self._usage: Usage | None = None
        self._called = -1

    def write(self, events: Sequence[Event]) -> bytes:
        out: list[bytes] = []
        for event in events:
            kind = type(event)
            if kind is TextDelta:
                out.append(self._chunk({"content": event.text}))  # pyright: ignore[reportAttributeAccessIssue]
            elif kind is Counted:
                self._count(event)  # pyright: ignore[reportArgumentType]
            elif shown := self._frame(event):
                out.append(shown)
        return b"".join(out)

    def more(self, texts: list[bytes]) -> bytes:
        return b"".join([self._chunk_of(b'{"content":"%b"}' % each) for each in texts])

    def finish(self) -> bytes:
        if not self._show_usage:
            return b""
        # What nobody counted is not told as nothing.
        usage = None if self._usage is None else wire_usage(self._usage)
        return b'data: %b,"choices":[],"usage":%b}\n\n' % (self._begun(), _encode(usage))

    def cut(self, extra: Mapping[str, object]) -> bytes:
        more = _encode(dict(extra))[1:-1]
        end = b"data: %b,%b" % (
            self._begun(),
            b'"choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}]',
        )
        return (end + b"," + more if more else end) + b"}\n\n" + self.finish()

    def terminal(self) -> bytes:
        return DONE

    def failed(self, code: str, message: str) -> bytes:
        return b""

    def _count(self, event: Counted) -> None:
        self._usage = event.usage

    def _frame(self, event: Event) -> bytes:
        match event:
            case Began():
                self._id, self._model = event.id, event.model or self._model
                self._head = b""
                return self._chunk({"role": "assistant", "content": ""})
            case ReasoningDelta(text=text):
                return self._chunk({"reasoning_content": text}) if text else b""
            case RefusalDelta(text=text):
                return self._chunk({"refusal": text})
            case ToolCallBegan():
                call = {
                    "index": event.index,
                    "id": event.id,
                    "type": "function",
                    "function": {"name": event.name, "arguments": ""},
                    **_signed(event.signature),
                }
                return self._chunk({"tool_calls": [call]})
            case ToolCallDelta():
                call = {"index": event.index, "function": {"arguments": event.arguments}}
                return self._chunk({"tool_calls": [call]}) if event.arguments else b""
            case Ended(stop=stop):
                return self._chunk({}, stop.finish_reason)
            case _:
                return b""

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        return self._chunk_of(_encode(delta), b"null" if finish is None else _encode(finish))

    def _chunk_of(self, delta: bytes, finish: bytes = b"null") -> bytes:
        return b'data: %b,"choices":[{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}]%b' % (
            self._begun(),
            delta,
            finish,
            self._tail,
        )

    def _begun(self) -> bytes:
        if not self._head:
            self._id = _id(self._id)
            head = {
                "id": self._id,
                "object": "chat.completion.chunk",
                "created": self._now,
                "model": self._model,
            }
            self._head = _encode(head)[:-1]
        return self._head


def wire_usage(usage: Usage) -> dict[str, Any]:
    """The counts in OpenAI's way: inclusive, with the parts told beside."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def _id(given: str | None) -> str:
    return given if given and given.startswith("chatcmpl-") else f"chatcmpl-{given or secrets.token_hex(12)}"


def _signed(signature: str) -> dict[str, Any]:
    """Where Google's own OpenAI-compatible API puts the proof of a thought, and clients hand it back from."""
    return {"extra_content": {"google": {"thought_signature": signature}}} if signature else {}
