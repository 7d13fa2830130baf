"""Gemini's answers, streams and refusals, read into the one form.

The prompt's count includes what was cached, and thoughts are told beside the answer: here the classes become disjoint. A
stream has no last event: it is whole where its connection ends after a finish reason.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from urllib.parse import quote

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
    ReasoningDelta,
    Request,
    Stop,
    TextDelta,
    ToolCallBegan,
    ToolCallDelta,
    Usage,
)
from engines.errors import EngineError, Garbled, Reason, Reported, reason_of
from engines.gemini.requests import write_contents, write_embeddings
from engines.messages import Count
from engines.sse import Events
from engines.told import count_of, note_told
from engines.whole_answers import assembled

_STOP = {
    "STOP": Stop.END,
    "MAX_TOKENS": Stop.LENGTH,
    "SAFETY": Stop.FILTER,
    "RECITATION": Stop.FILTER,
    "LANGUAGE": Stop.FILTER,
    "BLOCKLIST": Stop.FILTER,
    "PROHIBITED_CONTENT": Stop.FILTER,
    "SPII": Stop.FILTER,
    "IMAGE_SAFETY": Stop.FILTER,
    "OTHER": Stop.FILTER,
}
_STATUSES = {
    "RESOURCE_EXHAUSTED": Reason.RATE_LIMITED,
    "UNAVAILABLE": Reason.OVERLOADED,
    "DEADLINE_EXCEEDED": Reason.TIMED_OUT,
    "PERMISSION_DENIED": Reason.CREDENTIAL,
    "UNAUTHENTICATED": Reason.CREDENTIAL,
    "NOT_FOUND": Reason.NOT_FOUND,
    "INVALID_ARGUMENT": Reason.INVALID,
}
_CONTEXT = re.compile(rb"exceeds the maximum number of tokens|token count .{0,40}exceeds", re.IGNORECASE)


class _FunctionCall(msgspec.Struct, gc=False):
    name: str
    id: str | None = None
    args: msgspec.Raw = msgspec.Raw(b"{}")


class _Part(msgspec.Struct, gc=False, rename="camel"):
    text: str | None = None
    thought: bool = False
    thought_signature: str | None = None
    function_call: _FunctionCall | None = None


class _Content(msgspec.Struct, gc=False):
    parts: list[_Part] = []


class _Candidate(msgspec.Struct, gc=False, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None
    index: int = 0


class _Usage(msgspec.Struct, gc=False, rename="camel"):
    prompt_token_count: int | None = None
    cached_content_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int | None = None
    tool_use_prompt_token_count: int | None = None


class _Feedback(msgspec.Struct, gc=False, rename="camel"):
    block_reason: str | None = None


class _Error(msgspec.Struct, gc=False):
    code: int = 500
    status: str = ""


class _Response(msgspec.Struct, gc=False, rename="camel"):
    candidates: list[_Candidate] = []
    prompt_feedback: _Feedback | None = None
    usage_metadata: _Usage | None = None
    model_version: str | None = None
    response_id: str | None = None
    error: _Error | None = None


class _Vector(msgspec.Struct, gc=False):
    values: list[float]


class _Vectors(msgspec.Struct, gc=False, rename="camel"):
    embeddings: list[_Vector]
    usage_metadata: _Usage | None = None


_decode = msgspec.json.Decoder(_Response).decode
_decode_vectors = msgspec.json.Decoder(_Vectors).decode
_decode_usage = msgspec.json.Decoder(_Usage).decode


class Gemini:
    """The ports `ProviderDialect` and `EmbeddingDialect`."""

    stream_type = "text/event-stream"

    def path(self, model: str, *, stream: bool) -> str:
        return (
            f"{_named(model)}:streamGenerateContent?alt=sse" if stream else f"{_named(model)}:generateContent"
        )

    def write_request(self, request: Request, *, model: str, stream: bool) -> bytes:
        return write_contents(request, model=model)

    def read_answer(self, body: bytes) -> Answer:
        reader = GeminiReader()
        events = reader.take(body)
        events += reader.ended()
        try:
            return assembled(events)
        except ValueError as exc:
            raise Garbled("the answer's parts do not fit together") from exc

    def read_usage(self, usage: bytes) -> Count | None:
        return _count(usage)

    def reader(self) -> GeminiReader:
        return GeminiReader()

    def reason(self, status: int, body: bytes) -> Reason:
        if status == 400:
            if b"API_KEY_INVALID" in body or b"API_KEY_EXPIRED" in body:
                return Reason.CREDENTIAL
            if _CONTEXT.search(body):
                return Reason.CONTEXT_LENGTH
        return reason_of(status)

    def embedding_path(self, model: str) -> str:
        return f"{_named(model)}:batchEmbedContents"

    def write_embedding(self, request: EmbeddingRequest, *, model: str) -> bytes:
        return write_embeddings(request, model=model)

    def read_embeddings(self, body: bytes, headers: Mapping[str, str]) -> Embeddings:
        found = decoded(_decode_vectors, body)
        usage = found.usage_metadata
        return Embeddings(
            [each.values for each in found.embeddings],
            usage.prompt_token_count if usage is not None else None,
        )


class GeminiReader:
    """The port `EventReader`."""

    __slots__ = ("_began", "_calls", "_events", "_stop", "_usage", "done")

    def __init__(self) -> None:
        self._events = Events()
        self._began = False
        self._calls = 0
        self._stop: Stop | None = None
        self._usage: Usage | None = None
        self.done = False

    def read(self, data: bytes) -> list[Event]:
        return self._read(self._events.feed(data))

    def _read(self, frames: list[tuple[str, bytes]]) -> list[Event]:
        out: list[Event] = []
        payload = b""
        try:
            for _, payload in frames:
                out += self.take(payload)
        except EngineError as exc:
            note_told(exc, _count, payload, out)
            raise
        return out

    def ended(self) -> list[Event]:
        out = self._read(self._events.rest())
        if self._stop is None:
            raise Garbled("the stream ended before its answer did")
        if not self.done:
            self.done = True
            out.append(Ended(self._stop))
            if self._usage is not None:
                out.append(Counted(self._usage))
        return out

    def take(self, payload: bytes) -> list[Event]:
        """The events of one response, the end left out: more may follow it."""
        response = decoded(_decode, payload)
        if response.error is not None:
            raise Reported(_STATUSES.get(response.error.status, reason_of(response.error.code)))
        out: list[Event] = []
        if not self._began:
            self._began = True
            out.append(Began(response.response_id, response.model_version))
        for candidate in response.candidates:
            if candidate.index:
                continue
            for part in candidate.content.parts if candidate.content is not None else ():
                self._part(part, out)
            if candidate.finish_reason is not None:
                self._stop = self._stopped(candidate.finish_reason)
        if response.prompt_feedback is not None and response.prompt_feedback.block_reason is not None:
            self._stop = self._stop or Stop.FILTER
        usage = response.usage_metadata
        if usage is not None and usage.prompt_token_count is not None:
            self._usage = _usage(usage)
            out.append(Counted(self._usage, input_only=usage.candidates_token_count is None))
        return out

    def _part(self, part: _Part, out: list[Event]) -> None:
        signature = part.thought_signature or ""
        call = part.function_call
        if call is not None:
            identity = call.id or f"call_{secrets.token_hex(8)}"
            out.append(ToolCallBegan(self._calls, identity, call.name, signature))
            out.append(ToolCallDelta(self._calls, bytes(call.args).decode()))
            self._calls += 1
        elif part.thought:
            out.append(ReasoningDelta(part.text or "", signature))
        elif part.text:
            out.append(TextDelta(part.text))

    def _stopped(self, reason: str) -> Stop:
        stop = _STOP.get(reason)
        if stop is None:
            # A call that the model could not write, and whatever is new: no answer that anybody can use.
            raise Reported(Reason.FAILED)
        return Stop.TOOLS if stop is Stop.END and self._calls else stop


def _named(model: str) -> str:
    return "/" + quote(model if "/" in model else f"models/{model}", safe="/:@")


def _count(usage: bytes) -> Count | None:
    """The count of what failed: nothing follows it, so a side that is left out came to nothing."""
    wire = _decode_usage(usage)
    return None if wire.prompt_token_count is None else count_of(_usage(wire))


def _usage(wire: _Usage) -> Usage:
    prompt, cached = wire.prompt_token_count or 0, wire.cached_content_token_count or 0
    return Usage(
        fresh=prompt - cached + (wire.tool_use_prompt_token_count or 0),
        cache_read=cached,
        output=wire.candidates_token_count or 0,
        reasoning=wire.thoughts_token_count or 0,
    )
