"""Bedrock's Converse: answers, streams and refusals, read into the one form.

Input is told beside what was cached. A stream's end has two events, `messageStop` and then `metadata` with the count; it is
whole once the first was read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

import msgspec

from engines.answer_json import decoded
from engines.bedrock.frames import Frames
from engines.bedrock.requests import write_converse, write_embeddings
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
from engines.errors import EngineError, Garbled, Reason, Reported, reason_of
from engines.messages import Count
from engines.told import count_of, note_told

_STOP = {
    "end_turn": Stop.END,
    "tool_use": Stop.TOOLS,
    "max_tokens": Stop.LENGTH,
    "model_context_window_exceeded": Stop.LENGTH,
    "stop_sequence": Stop.SEQUENCE,
    "guardrail_intervened": Stop.FILTER,
    "content_filtered": Stop.FILTER,
    "refusal": Stop.REFUSAL,
}
_EXCEPTIONS = {
    "throttlingException": Reason.RATE_LIMITED,
    "serviceUnavailableException": Reason.OVERLOADED,
    "validationException": Reason.INVALID,
    "modelStreamErrorException": Reason.FAILED,
    "internalServerException": Reason.FAILED,
}
_CONTEXT = re.compile(
    rb"input is too long|too many (?:input )?tokens|context (?:length|window)|prompt is too long", re.I
)


class _Proven(msgspec.Struct, gc=False):
    text: str = ""
    signature: str | None = None


class _Thought(msgspec.Struct, gc=False, rename="camel"):
    reasoning_text: _Proven | None = None
    redacted_content: str | None = None


class _ToolUse(msgspec.Struct, gc=False, rename="camel"):
    tool_use_id: str = ""
    name: str = ""
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _Block(msgspec.Struct, gc=False, rename="camel"):
    text: str | None = None
    tool_use: _ToolUse | None = None
    reasoning_content: _Thought | None = None


class _Message(msgspec.Struct, gc=False):
    content: list[_Block] = []


class _Output(msgspec.Struct, gc=False):
    message: _Message


class _Usage(msgspec.Struct, gc=False, rename="camel"):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None


class _Answer(msgspec.Struct, gc=False, rename="camel"):
    output: _Output
    stop_reason: str
    usage: _Usage | None = None


class _ThoughtDelta(msgspec.Struct, gc=False, rename="camel"):
    text: str | None = None
    signature: str | None = None
    redacted_content: str | None = None


class _ToolDelta(msgspec.Struct, gc=False):
    input: str = ""


class _Delta(msgspec.Struct, gc=False, rename="camel"):
    text: str | None = None
    tool_use: _ToolDelta | None = None
    reasoning_content: _ThoughtDelta | None = None


class _Start(msgspec.Struct, gc=False, rename="camel"):
    tool_use: _ToolUse | None = None


class _Event(msgspec.Struct, gc=False, rename="camel"):
    content_block_index: int = 0
    start: _Start | None = None
    delta: _Delta | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None


class _Titan(msgspec.Struct, gc=False, rename="camel"):
    embedding: list[float] | None = None
    input_text_token_count: int | None = None
    embeddings: list[list[float]] | dict[str, list[list[float]]] | None = None


_decode_answer = msgspec.json.Decoder(_Answer).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_vectors = msgspec.json.Decoder(_Titan).decode
_decode_usage = msgspec.json.Decoder(_Usage).decode


class Converse:
    """The ports `ProviderDialect` and `EmbeddingDialect`."""

    stream_type = "application/vnd.amazon.eventstream"

    def path(self, model: str, *, stream: bool) -> str:
        return f"/model/{quote(model, safe='')}/converse{'-stream' if stream else ''}"

    def write_request(self, request: Request, *, model: str, stream: bool) -> bytes:
        return write_converse(request, model=model)

    def read_answer(self, body: bytes) -> Answer:
        answer = decoded(_decode_answer, body)
        parts: list[Text | Reasoning | ToolCall] = []
        for block in answer.output.message.content:
            if block.text is not None:
                parts.append(Text(block.text))
            elif block.tool_use is not None:
                used = block.tool_use
                parts.append(ToolCall(used.tool_use_id, used.name, bytes(used.input).decode()))
            elif block.reasoning_content is not None:
                thought = block.reasoning_content
                proven = thought.reasoning_text or _Proven()
                parts.append(Reasoning(proven.text, proven.signature or "", thought.redacted_content or ""))
        return Answer(tuple(parts), _stopped(answer.stop_reason), _usage(answer.usage))

    def read_usage(self, usage: bytes) -> Count | None:
        return _count(usage)

    def reader(self) -> ConverseReader:
        return ConverseReader()

    def reason(self, status: int, body: bytes) -> Reason:
        if status == 400 and _CONTEXT.search(body):
            return Reason.CONTEXT_LENGTH
        if status == 400 and (b"UnrecognizedClient" in body or b"ExpiredToken" in body):
            return Reason.CREDENTIAL
        return Reason.FAILED if status == 424 else reason_of(status)

    def embedding_path(self, model: str) -> str:
        return f"/model/{quote(model, safe='')}/invoke"

    def write_embedding(self, request: EmbeddingRequest, *, model: str) -> bytes:
        return write_embeddings(request, model=model)

    def read_embeddings(self, body: bytes, headers: Mapping[str, str]) -> Embeddings:
        found = decoded(_decode_vectors, body)
        told = headers.get("x-amzn-bedrock-input-token-count", "")
        tokens = int(told) if told.isdecimal() and len(told) < 10 else found.input_text_token_count
        if found.embedding is not None:
            return Embeddings([found.embedding], tokens)
        vectors = found.embeddings
        if isinstance(vectors, dict):
            vectors = vectors.get("float")
        if vectors is None:
            raise Garbled("the answer has no vectors")
        return Embeddings(vectors, tokens)


class ConverseReader:
    """The port `EventReader`."""

    __slots__ = ("_argued", "_calls", "_ended", "_failed", "_frames", "done")

    def __init__(self) -> None:
        self._frames = Frames()
        self._calls: dict[int, int] = {}
        self._argued: set[int] = set()
        self._ended = False
        self._failed = False
        """It stopped for no reason that an answer has; what it used is told in the event that follows."""
        self.done = False

    def read(self, data: bytes) -> list[Event]:
        out: list[Event] = []
        payload = b""
        try:
            for kind, name, payload in self._frames.feed(data):
                if self.done:
                    break
                if kind != "event":
                    raise Reported(_EXCEPTIONS.get(name, Reason.FAILED))
                self._read(name, payload, out)
        except EngineError as exc:
            note_told(exc, _count, payload, out)
            raise
        return out

    def ended(self) -> list[Event]:
        if self._failed:
            raise Reported(Reason.FAILED)
        if not self._ended or not self._frames.empty:
            raise Garbled("the stream ended before its message did")
        self.done = True
        return []

    def _read(self, name: str, payload: bytes, out: list[Event]) -> None:
        if self._ended and name != "metadata":
            raise Garbled("more came after the message's end")
        match name:
            case "contentBlockDelta":
                self._delta(decoded(_decode_event, payload), out)
            case "messageStart":
                out.append(Began())
            case "contentBlockStart":
                event = decoded(_decode_event, payload)
                used = event.start.tool_use if event.start is not None else None
                if used is not None:
                    self._calls[event.content_block_index] = index = len(self._calls)
                    out.append(ToolCallBegan(index, used.tool_use_id, used.name))
            case "contentBlockStop":
                at = decoded(_decode_event, payload).content_block_index
                if at in self._calls and at not in self._argued:
                    out.append(ToolCallDelta(self._calls[at], "{}"))
            case "messageStop":
                self._ended = True
                stop = _STOP.get(decoded(_decode_event, payload).stop_reason or "")
                if stop is None:
                    self._failed = True
                else:
                    out.append(Ended(stop))
            case "metadata" if self._failed:
                raise Reported(Reason.FAILED)
            case "metadata":
                usage = _usage(decoded(_decode_event, payload).usage)
                if usage is not None:
                    out.append(Counted(usage))
                self.done = self._ended
            case _:
                return

    def _delta(self, event: _Event, out: list[Event]) -> None:
        delta = event.delta or _Delta()
        if delta.text is not None:
            out.append(TextDelta(delta.text))
        elif delta.tool_use is not None:
            index = self._calls.get(event.content_block_index)
            if index is not None and delta.tool_use.input:
                self._argued.add(event.content_block_index)
                out.append(ToolCallDelta(index, delta.tool_use.input))
        elif delta.reasoning_content is not None:
            thought = delta.reasoning_content
            out.append(
                ReasoningDelta(thought.text or "", thought.signature or "", thought.redacted_content or "")
            )


def _stopped(reason: str) -> Stop:
    stop = _STOP.get(reason)
    if stop is None:
        # An answer that the model could not write (malformed output or call), and whatever is new.
        raise Reported(Reason.FAILED)
    return stop


def _count(usage: bytes) -> Count | None:
    return count_of(_usage(_decode_usage(usage)))


def _usage(wire: _Usage | None) -> Usage | None:
    if wire is None or wire.input_tokens is None or wire.output_tokens is None:
        return None
    return Usage(
        fresh=wire.input_tokens,
        cache_read=wire.cache_read_input_tokens or 0,
        cache_write=wire.cache_write_input_tokens or 0,
        output=wire.output_tokens,
    )
