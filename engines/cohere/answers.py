"""Cohere's answers, streams and refusals, read into the one form.

Counted is what Cohere bills, which leaves out its own templates. A stream is whole at `message-end`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from engines.answer_json import decoded
from engines.canonical import (
    Answer,
    Began,
    Counted,
    EmbeddingRequest,
    Embeddings,
    Ended,
    Event,
    Reasoning,
    ReasoningDelta,
    Request,
    Stop,
    Text,
    TextDelta,
    ToolCall,
    ToolCallBegan,
    ToolCallDelta,
    Usage,
)
from engines.cohere.requests import write_chat, write_embeddings
from engines.errors import EngineError, Garbled, Reason, Reported, reason_of
from engines.messages import Count
from engines.sse import Events
from engines.told import count_of, note_told

_STOP = {
    "COMPLETE": Stop.END,
    "STOP_SEQUENCE": Stop.SEQUENCE,
    "MAX_TOKENS": Stop.LENGTH,
    "TOOL_CALL": Stop.TOOLS,
}
_CONTEXT = re.compile(rb"too many tokens|context length|maximum.{0,20} tokens", re.IGNORECASE)


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct, gc=False):
    id: str | None = None
    function: _Function | None = None


class _Content(msgspec.Struct, gc=False):
    type: str = ""
    text: str | None = None
    thinking: str | None = None


class _Whole(msgspec.Struct, gc=False):
    content: list[_Content] | None = None
    tool_calls: list[_Call] | None = None
    tool_plan: str | None = None


class _Units(msgspec.Struct, gc=False):
    input_tokens: float | None = None
    output_tokens: float | None = None


class _Usage(msgspec.Struct, gc=False):
    billed_units: _Units | None = None
    tokens: _Units | None = None
    cached_tokens: float | None = None


class _Answer(msgspec.Struct, gc=False):
    message: _Whole
    finish_reason: str
    id: str | None = None
    usage: _Usage | None = None


class _Piece(msgspec.Struct, gc=False):
    content: _Content | None = None
    tool_calls: _Call | None = None
    tool_plan: str | None = None


class _Delta(msgspec.Struct, gc=False):
    # At the start of a message its content is an empty list, which says nothing.
    message: msgspec.Raw = msgspec.Raw(b"{}")
    finish_reason: str | None = None
    usage: _Usage | None = None


class _Event(msgspec.Struct, gc=False):
    type: str
    id: str | None = None
    index: int = 0
    delta: _Delta | None = None


class _Floats(msgspec.Struct, gc=False):
    floats: list[list[float]] = msgspec.field(name="float")


class _Meta(msgspec.Struct, gc=False):
    billed_units: _Units | None = None


class _Vectors(msgspec.Struct, gc=False):
    embeddings: _Floats
    meta: _Meta | None = None


_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_piece = msgspec.json.Decoder(_Piece).decode
_decode_vectors = msgspec.json.Decoder(_Vectors).decode
_decode_usage = msgspec.json.Decoder(_Usage).decode


class Cohere:
    """The ports `ProviderDialect` and `EmbeddingDialect`."""

    stream_type = "text/event-stream"

    def path(self, model: str, *, stream: bool) -> str:
        return "/chat"

    def write_request(self, request: Request, *, model: str, stream: bool) -> bytes:
        return write_chat(request, model=model, stream=stream)

    def read_answer(self, body: bytes) -> Answer:
        answer = decoded(_decode_answer, body)
        message = answer.message
        parts: list[Text | Reasoning | ToolCall] = []
        if message.tool_plan:
            parts.append(Reasoning(message.tool_plan))
        for content in message.content or ():
            if content.thinking:
                parts.append(Reasoning(content.thinking))
            elif content.text:
                parts.append(Text(content.text))
        for call in message.tool_calls or ():
            function = call.function or _Function()
            parts.append(ToolCall(call.id or "", function.name or "", function.arguments or "{}"))
        return Answer(tuple(parts), _stopped(answer.finish_reason), _usage(answer.usage), answer.id)

    def read_usage(self, usage: bytes) -> Count | None:
        return _count(usage)

    def reader(self) -> CohereReader:
        return CohereReader()

    def reason(self, status: int, body: bytes) -> Reason:
        if status in (400, 422) and _CONTEXT.search(body):
            return Reason.CONTEXT_LENGTH
        # 498 is its word for an invalid token, 499 for a call that it gave up.
        return Reason.CREDENTIAL if status == 498 else Reason.FAILED if status == 499 else reason_of(status)

    def embedding_path(self, model: str) -> str:
        return "/embed"

    def write_embedding(self, request: EmbeddingRequest, *, model: str) -> bytes:
        return write_embeddings(request, model=model)

    def read_embeddings(self, body: bytes, headers: Mapping[str, str]) -> Embeddings:
        found = decoded(_decode_vectors, body)
        units = found.meta.billed_units if found.meta is not None else None
        tokens = units.input_tokens if units is not None else None
        return Embeddings(found.embeddings.floats, None if tokens is None else int(tokens))


class CohereReader:
    """The port `EventReader`."""

    __slots__ = ("_argued", "_calls", "_events", "done")

    def __init__(self) -> None:
        self._events = Events()
        self._calls = 0
        self._argued = False
        self.done = False

    def read(self, data: bytes) -> list[Event]:
        return self._all(self._events.feed(data))

    def _all(self, frames: list[tuple[str, bytes]]) -> list[Event]:
        out: list[Event] = []
        payload = b""
        try:
            for _, payload in frames:
                self._read(payload, out)
        except EngineError as exc:
            note_told(exc, _count, payload, out)
            raise
        return out

    def ended(self) -> list[Event]:
        out = self._all(self._events.rest())
        if not self.done:
            raise Garbled("the stream ended before its message did")
        return out

    def _read(self, payload: bytes, out: list[Event]) -> None:
        if self.done:
            return
        event = decoded(_decode_event, payload)
        delta = event.delta or _Delta()
        match event.type:
            case "message-start":
                out.append(Began(event.id))
            case "content-start" | "content-delta":
                content = decoded(_decode_piece, bytes(delta.message)).content or _Content()
                if content.thinking:
                    out.append(ReasoningDelta(content.thinking))
                elif content.text:
                    out.append(TextDelta(content.text))
            case "tool-plan-delta":
                plan = decoded(_decode_piece, bytes(delta.message)).tool_plan
                if plan:
                    out.append(ReasoningDelta(plan))
            case "tool-call-start" | "tool-call-delta":
                self._call(event.type, decoded(_decode_piece, bytes(delta.message)).tool_calls, out)
            case "tool-call-end":
                if not self._argued and self._calls:
                    out.append(ToolCallDelta(self._calls - 1, "{}"))
            case "message-end":
                out.append(Ended(_stopped(delta.finish_reason or "")))
                usage = _usage(delta.usage)
                if usage is not None:
                    out.append(Counted(usage))
                self.done = True
            case _:
                return

    def _call(self, kind: str, call: _Call | None, out: list[Event]) -> None:
        call = call or _Call()
        function = call.function or _Function()
        if kind == "tool-call-start":
            self._calls += 1
            self._argued = False
            out.append(ToolCallBegan(self._calls - 1, call.id or "", function.name or ""))
        if function.arguments and self._calls:
            self._argued = True
            out.append(ToolCallDelta(self._calls - 1, function.arguments))


def _stopped(reason: str) -> Stop:
    stop = _STOP.get(reason)
    if stop is None:
        raise Reported(Reason.FAILED)
    return stop


def _count(usage: bytes) -> Count | None:
    return count_of(_usage(_decode_usage(usage)))


def _usage(wire: _Usage | None) -> Usage | None:
    units = wire and (wire.billed_units or wire.tokens)
    if wire is None or units is None or units.input_tokens is None or units.output_tokens is None:
        return None
    if units.input_tokens % 1 or units.output_tokens % 1:
        return None  # No count, though a decimal is what it is written as.
    prompt = int(units.input_tokens)
    cached = min(prompt, int(wire.cached_tokens or 0))
    return Usage(fresh=prompt - cached, cache_read=cached, output=int(units.output_tokens))
