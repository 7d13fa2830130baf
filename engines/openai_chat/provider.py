"""What a provider of OpenAI's chat completions answers, plain and streamed, read into the one form.

Every stream becomes the events of the plain answer that it adds up to; what fits neither is garbled, never guessed.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from engines.answer_json import decoded
from engines.canonical import (
    Answer,
    Began,
    Counted,
    Ended,
    Event,
    ReasoningDelta,
    RefusalDelta,
    Stop,
    TextDelta,
    Usage,
)
from engines.errors import EngineError, Garbled, Reason, Reported, reason_of
from engines.messages import NO_ERROR, Count, WireUsage, believed
from engines.openai_chat.calls import Calls
from engines.sse import Events
from engines.told import chat_count, note_told
from engines.whole_answers import assembled

_STOP = {
    "stop": Stop.END,
    "length": Stop.LENGTH,
    "tool_calls": Stop.TOOLS,
    "function_call": Stop.TOOLS,
    "content_filter": Stop.FILTER,
}
_CONTEXT = re.compile(
    rb"context_length_exceeded|maximum context length|context window|prompt is too long|too many tokens",
    re.IGNORECASE,
)
_LIMIT = re.compile(rb"context length (?:is|of) (\d{2,9})", re.IGNORECASE)
_FILTER = re.compile(
    rb"content_filter|content_policy|content management policy|invalid_prompt", re.IGNORECASE
)


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None
    """The text of a JSON object; some write the object."""


class _Call(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None
    extra_content: dict[str, Any] | None = None


class _Part(msgspec.Struct, gc=False):
    """Of a content in parts, as models of Mistral's and Databricks' that think write it."""

    text: str | None = None
    thinking: str | list[_Part] | None = None
    summary: list[_Part] | None = None


class _Said(msgspec.Struct, gc=False):
    content: str | list[_Part] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    finish_reason: str | None = None
    stop_reason: Any = None
    """vLLM's word for what stopped it: the sequence, or a token's id."""
    delta: _Said | None = None
    message: _Said | None = None


class _Chunk(msgspec.Struct, gc=False):
    id: str | None = None
    model: str | None = None
    choices: list[_Choice] = []
    usage: WireUsage | None = None
    error: msgspec.Raw = NO_ERROR


_decode = msgspec.json.Decoder(_Chunk).decode


def read_chat_answer(body: bytes) -> Answer:
    """A plain completion; raises Garbled."""
    chunk = _decoded(body)
    if not chunk.choices or chunk.choices[0].message is None or chunk.choices[0].finish_reason is None:
        raise Garbled("the answer has no message")
    events: list[Event] = [Began(chunk.id, chunk.model)]
    calls = Calls()
    events += _said(chunk.choices[0].message, calls)
    events += calls.end()
    events.append(Ended(*_stopped(chunk.choices[0])))
    if (usage := usage_of(chunk.usage)) is not None:
        events.append(Counted(usage))
    try:
        return assembled(events)
    except ValueError as exc:
        raise Garbled("the answer's parts do not fit together") from exc


class ChatReader:
    """The port `EventReader`: one stream of chunks."""

    __slots__ = ("_began", "_calls", "_counted", "_ended", "_events", "done", "running")

    def __init__(self, *, running: bool = False) -> None:
        self.running = running
        """The provider counts in every chunk: its count comes before what it counts, which is then not estimated."""
        self._counted: Usage | None = None
        self._events = Events()
        self._calls = Calls()
        self._began = False
        self._ended: Stop | None = None
        self.done = False

    def read(self, data: bytes) -> list[Event]:
        return self._read(self._events.feed(data))

    def ended(self) -> list[Event]:
        found = self._read(self._events.rest())
        if not self.done:
            raise Garbled("the stream ended without [DONE]")
        return found

    def _read(self, frames: list[tuple[str, bytes]]) -> list[Event]:
        out: list[Event] = []
        payload = b""
        try:
            for _, payload in frames:
                if self.done:
                    break
                if payload == b"[DONE]":
                    self.done = True
                    if self._ended is None:
                        raise Garbled("[DONE] came before the answer's end")
                    continue
                chunk = _decoded(payload)
                if not self._began:
                    self._began = True
                    out.append(Began(chunk.id, chunk.model))
                usage = usage_of(chunk.usage)
                if self.running and chunk.choices:
                    if usage is not None:
                        self._counted = usage
                        out.append(Counted(usage, ahead=True))
                    elif self._counted is not None:
                        out.append(Counted(self._counted))
                    usage = None
                for choice in chunk.choices:
                    if choice.index:
                        continue
                    if choice.delta is not None and self._ended is None:
                        out += _said(choice.delta, self._calls)
                    # Some write an empty one in every chunk before the last.
                    if choice.finish_reason and self._ended is None:
                        self._ended, sequence = _stopped(choice)
                        out += self._calls.end()
                        out.append(Ended(self._ended, sequence))
                if usage is not None:
                    out.append(Counted(usage))
        except EngineError as exc:
            note_told(exc, chat_count, payload, out)
            raise
        return out


def chat_reason(status: int, body: bytes) -> Reason:
    """Why it refused, from the status and the words that providers of this family use."""
    if status in (400, 413, 422):
        if _CONTEXT.search(body):
            return Reason.CONTEXT_LENGTH
        if _FILTER.search(body):
            return Reason.CONTENT_FILTER
    if status == 429 and b"insufficient_quota" in body:
        return Reason.QUOTA
    return reason_of(status)


def context_limit(body: bytes) -> int:
    """The model's context where a refusal names it, else 0."""
    found = _LIMIT.search(body)
    return int(found[1]) if found else 0


def usage_of(wire: WireUsage | None) -> Usage | None:
    """The counts in disjoint classes, or None where they cannot be believed."""
    count = believed(wire)
    return None if count is None else disjoint(count)


def disjoint(count: Count) -> Usage:
    """The counts in disjoint classes."""
    return Usage(
        fresh=count.prompt - count.cached - count.cache_write,
        cache_read=count.cached,
        cache_write=count.cache_write,
        output=count.completion - count.reasoning,
        reasoning=count.reasoning,
    )


def _decoded(payload: bytes) -> _Chunk:
    chunk = decoded(_decode, payload)
    if bytes(chunk.error) not in (b"", b"null"):
        raise Reported(chat_reason(500, bytes(chunk.error)))
    return chunk


def _stopped(choice: _Choice) -> tuple[Stop, str | None]:
    return stopped(choice.finish_reason, choice.stop_reason if type(choice.stop_reason) is str else None)


def stopped(finish_reason: str | None, sequence: str | None) -> tuple[Stop, str | None]:
    """Why it ended, and the stop sequence where the provider tells which."""
    if finish_reason == "stop" and sequence is not None:
        return Stop.SEQUENCE, sequence
    return _STOP.get(finish_reason or "", Stop.END), None


def _said(said: _Said, calls: Calls) -> list[Event]:
    out: list[Event] = []
    thought = said.reasoning_content or said.reasoning
    if thought:
        out.append(ReasoningDelta(thought))
    content = said.content
    if content:
        out += [TextDelta(content)] if isinstance(content, str) else _parts(content)
    if said.refusal:
        out.append(RefusalDelta(said.refusal))
    for at, call in enumerate(said.tool_calls or ()):
        # Some leave the index out where there is but one call, or where the answer is plain.
        index = at if call.index is None else call.index
        function = call.function or _Function()
        arguments = function.arguments or ""
        if isinstance(arguments, dict):
            arguments = msgspec.json.encode(arguments).decode()
        out += calls.take(index, call.id, function.name, arguments, _signature(call.extra_content))
    return out


def _parts(content: list[_Part]) -> list[Event]:
    out: list[Event] = []
    for part in content:
        thought = part.thinking or part.summary or ""
        if isinstance(thought, list):
            thought = "".join([each.text or "" for each in thought])
        if thought:
            out.append(ReasoningDelta(thought))
        if part.text:
            out.append(TextDelta(part.text))
    return out


def _signature(extra: dict[str, Any] | None) -> str:
    google = extra.get("google") if extra else None
    found = google.get("thought_signature") if type(google) is dict else None
    return found if type(found) is str else ""
