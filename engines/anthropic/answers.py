"""Anthropic's Messages: answers, streams and refusals, read into the one form.

Input is told beside what was cached, and thoughts are part of the output: here the classes become disjoint. A stream is
whole at `message_stop` and not before.
"""

from __future__ import annotations

import re

import msgspec

from engines.answer_json import decoded
from engines.anthropic.requests import write_messages
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
from engines.errors import EngineError, Garbled, Reason, Reported, reason_of
from engines.messages import Count
from engines.sse import Events
from engines.told import count_of, note_told

_STOP = {
    "end_turn": Stop.END,
    "max_tokens": Stop.LENGTH,
    "model_context_window_exceeded": Stop.LENGTH,
    "stop_sequence": Stop.SEQUENCE,
    "tool_use": Stop.TOOLS,
    "pause_turn": Stop.PAUSE,
    "refusal": Stop.REFUSAL,
}
_REASONS = {
    "authentication_error": Reason.CREDENTIAL,
    "permission_error": Reason.CREDENTIAL,
    "billing_error": Reason.QUOTA,
    "not_found_error": Reason.NOT_FOUND,
    "rate_limit_error": Reason.RATE_LIMITED,
    "overloaded_error": Reason.OVERLOADED,
    "api_error": Reason.FAILED,
    "timeout_error": Reason.TIMED_OUT,
    "invalid_request_error": Reason.INVALID,
    "request_too_large": Reason.CONTEXT_LENGTH,
}
_CONTEXT = re.compile(
    rb"prompt is too long|exceed[s]? (?:the )?context (?:limit|window)|input length and `max_tokens`",
    re.IGNORECASE,
)


class _Details(msgspec.Struct, gc=False):
    thinking_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens_details: _Details | None = None


class _Block(msgspec.Struct, gc=False):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _StopDetails(msgspec.Struct, gc=False):
    explanation: str | None = None


class _Message(msgspec.Struct, gc=False):
    id: str | None = None
    model: str | None = None
    content: list[_Block] = []
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: _StopDetails | None = None
    usage: _Usage | None = None


class _Delta(msgspec.Struct, gc=False):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: _StopDetails | None = None


class _Error(msgspec.Struct, gc=False):
    type: str = ""


class _Event(msgspec.Struct, gc=False):
    type: str
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: _Error | None = None


_decode_message = msgspec.json.Decoder(_Message).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_usage = msgspec.json.Decoder(_Usage).decode


class Messages:
    """The port `ProviderDialect`."""

    stream_type = "text/event-stream"

    def path(self, model: str, *, stream: bool) -> str:
        return "/messages"

    def write_request(self, request: Request, *, model: str, stream: bool) -> bytes:
        return write_messages(request, model=model, stream=stream)

    def read_answer(self, body: bytes) -> Answer:
        message = decoded(_decode_message, body)
        if message.stop_reason is None:
            raise Garbled("the answer has no end")
        parts: list[Text | Reasoning | ToolCall | Refusal] = []
        for block in message.content:
            match block.type:
                case "text":
                    parts.append(Text(block.text or ""))
                case "thinking":
                    parts.append(Reasoning(block.thinking or "", block.signature or ""))
                case "redacted_thinking":
                    parts.append(Reasoning(redacted=block.data or ""))
                case "tool_use":
                    parts.append(ToolCall(block.id or "", block.name or "", bytes(block.input).decode()))
                case _:
                    continue
        if message.stop_details is not None and message.stop_details.explanation:
            parts.append(Refusal(message.stop_details.explanation))
        told = message.usage
        return Answer(
            tuple(parts),
            _STOP.get(message.stop_reason, Stop.END),
            None if told is None or told.output_tokens is None else _usage(told),
            message.id,
            message.model,
            message.stop_sequence,
        )

    def read_usage(self, usage: bytes) -> Count | None:
        return messages_count(usage)

    def reader(self) -> MessagesReader:
        return MessagesReader()

    def reason(self, status: int, body: bytes) -> Reason:
        if status in (400, 413) and (_CONTEXT.search(body) or status == 413):
            return Reason.CONTEXT_LENGTH
        return reason_of(status)


class MessagesReader:
    """The port `EventReader`."""

    __slots__ = ("_calls", "_ended", "_events", "_unargued", "_usage", "done")

    def __init__(self) -> None:
        self._events = Events()
        self._calls: dict[int, int] = {}
        """Index of the block -> index among the calls."""
        self._unargued: dict[int, str] = {}
        """What a call whose arguments never stream was begun with, by its block: some tell them there."""
        self._usage = _Usage()
        self._ended = False
        self.done = False

    def read(self, data: bytes) -> list[Event]:
        return self._read(self._events.feed(data))

    def ended(self) -> list[Event]:
        out = self._read(self._events.rest())
        if not self.done:
            raise Garbled("the stream ended before its message did")
        return out

    def _read(self, frames: list[tuple[str, bytes]]) -> list[Event]:
        out: list[Event] = []
        payload = b""
        try:
            for _, payload in frames:
                self.take(payload, out)
        except EngineError as exc:
            note_told(exc, messages_count, payload, out)
            raise
        return out

    def take(self, payload: bytes, out: list[Event]) -> tuple[str, int]:
        """Read one frame's data; its type, and the block that it is about."""
        if self.done:
            return "", 0
        event = decoded(_decode_event, payload)
        match event.type:
            case "content_block_delta" | "content_block_start" if self._ended:
                raise Garbled("content came after the message's end")
            case "content_block_delta":
                self._delta(event, out)
            case "content_block_start":
                self._block(event, out)
            case "content_block_stop":
                if (begun := self._unargued.pop(event.index, None)) is not None:
                    out.append(ToolCallDelta(self._calls[event.index], begun))
            case "message_start":
                message = event.message or _Message()
                out.append(Began(message.id, message.model))
                self._usage = message.usage or self._usage
                usage = _usage(self._usage)
                if usage is not None:
                    out.append(Counted(usage, input_only=True))
            case "message_delta":
                self._end(event, out)
            case "message_stop":
                if not self._ended:
                    raise Garbled("the message stopped without a reason")
                self.done = True
            case "error":
                kind = event.error.type if event.error is not None else ""
                raise Reported(_REASONS.get(kind, Reason.FAILED))
            case _:
                pass
        return event.type, event.index

    def _block(self, event: _Event, out: list[Event]) -> None:
        block = event.content_block or _Block()
        match block.type:
            case "text" if block.text:
                out.append(TextDelta(block.text))
            case "thinking" if block.thinking or block.signature:
                out.append(ReasoningDelta(block.thinking or "", block.signature or ""))
            case "redacted_thinking":
                out.append(ReasoningDelta(redacted=block.data or ""))
            case "tool_use":
                self._calls[event.index] = index = len(self._calls)
                self._unargued[event.index] = bytes(block.input).decode()
                out.append(ToolCallBegan(index, block.id or "", block.name or ""))
            case _:
                return

    def _delta(self, event: _Event, out: list[Event]) -> None:
        delta = event.delta or _Delta()
        match delta.type:
            case "text_delta":
                out.append(TextDelta(delta.text or ""))
            case "input_json_delta":
                index = self._calls.get(event.index)
                if index is not None and delta.partial_json:
                    self._unargued.pop(event.index, None)
                    out.append(ToolCallDelta(index, delta.partial_json))
            case "thinking_delta":
                out.append(ReasoningDelta(delta.thinking or ""))
            case "signature_delta":
                out.append(ReasoningDelta(signature=delta.signature or ""))
            case _:
                return

    def _end(self, event: _Event, out: list[Event]) -> None:
        delta = event.delta or _Delta()
        if delta.stop_details is not None and delta.stop_details.explanation:
            out.append(RefusalDelta(delta.stop_details.explanation))
        if delta.stop_reason is not None and not self._ended:
            self._ended = True
            out.append(Ended(_STOP.get(delta.stop_reason, Stop.END), delta.stop_sequence))
        if event.usage is not None:
            # Cumulative; what is left out is as it was at the start.
            merged = {
                name: value
                for name in _Usage.__struct_fields__
                if (value := getattr(event.usage, name)) is not None
            }
            self._usage = msgspec.structs.replace(self._usage, **merged)
            usage = _usage(self._usage)
            if usage is not None:
                out.append(Counted(usage))


def messages_count(usage: bytes) -> Count | None:
    """The count of a usage that says both what went in and what came out."""
    wire = _decode_usage(usage)
    return None if wire.output_tokens is None else count_of(_usage(wire))


def _usage(wire: _Usage | None) -> Usage | None:
    if wire is None or wire.input_tokens is None:
        return None
    output = wire.output_tokens or 0
    details = wire.output_tokens_details or _Details()
    thought = min(output, details.thinking_tokens or 0)
    return Usage(
        fresh=wire.input_tokens,
        cache_read=wire.cache_read_input_tokens or 0,
        cache_write=wire.cache_creation_input_tokens or 0,
        output=output - thought,
        reasoning=thought,
    )
