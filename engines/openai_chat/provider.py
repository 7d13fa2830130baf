"""OpenAI's chat completions as a provider speaks it, for clients of other dialects.

What the one form holds and this dialect has no field for (a number of thinking tokens) becomes the nearest that it has;
proofs and sealed thoughts of other providers are left out, as no provider takes another's.
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
    Image,
    Message,
    ReasoningDelta,
    Refusal,
    RefusalDelta,
    Request,
    Stop,
    Text,
    TextDelta,
    Tool,
    ToolCall,
    ToolCallBegan,
    ToolCallDelta,
    ToolResult,
    Usage,
    assembled,
)
from engines.errors import Garbled, Reason, Reported, reason_of
from engines.messages import NO_ERROR, WireUsage, believed
from engines.sse import Events

_encode = msgspec.json.Encoder().encode
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
    arguments: str | None = None


class _Call(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None
    extra_content: dict[str, Any] | None = None


class _Said(msgspec.Struct, gc=False):
    content: str | None = None
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


def chat_body(request: Request) -> dict[str, Any]:
    """The body of a chat completion, without `model`, stream and bounds."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": text} for text in request.system]
    for message in request.messages:
        messages += _messages(message)
    body: dict[str, Any] = {"messages": messages, **request.extra}
    for name in ("temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty", "seed"):
        value = getattr(request, name)
        if value is not None:
            body[name] = value
    if request.stop:
        body["stop"] = list(request.stop)
    if request.tools:
        body["tools"] = [_tool(each) for each in request.tools]
        if request.tool_choice is not None:
            choice = request.tool_choice
            body["tool_choice"] = (
                {"type": "function", "function": {"name": choice.name}}
                if choice.mode == "named"
                else choice.mode
            )
        if request.parallel_tools is not None:
            body["parallel_tool_calls"] = request.parallel_tools
    if request.format is not None:
        wanted = request.format
        if wanted.schema is None:
            body["response_format"] = {"type": "json_object"}
        else:
            schema: dict[str, Any] = {"name": wanted.name, "schema": wanted.schema}
            if wanted.description:
                schema["description"] = wanted.description
            if wanted.strict is not None:
                schema["strict"] = wanted.strict
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
    thinking = request.thinking
    if thinking is not None and (effort := thinking.effort or _effort(thinking.budget)) is not None:
        body["reasoning_effort"] = effort
    return body


def read_chat_answer(body: bytes) -> Answer:
    """A plain completion; raises Garbled."""
    chunk = _decoded(body)
    if not chunk.choices or chunk.choices[0].message is None or chunk.choices[0].finish_reason is None:
        raise Garbled("the answer has no message")
    events: list[Event] = [Began(chunk.id, chunk.model)]
    events += _said(chunk.choices[0].message, {})
    events.append(Ended(*_stopped(chunk.choices[0])))
    if (usage := usage_of(chunk.usage)) is not None:
        events.append(Counted(usage))
    try:
        return assembled(events)
    except ValueError as exc:
        raise Garbled("the answer's parts do not fit together") from exc


class ChatReader:
    """The port `EventReader`: one stream of chunks."""

    __slots__ = ("_began", "_calls", "_counted", "_ended", "_events", "_running", "done")

    def __init__(self, *, running: bool = False) -> None:
        self._running = running
        """The provider counts in every chunk: its count comes before what it counts, which is then not estimated."""
        self._counted: Usage | None = None
        self._events = Events()
        self._calls: dict[int, int] = {}
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
            if self._running and chunk.choices:
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
                if choice.finish_reason is not None and self._ended is None:
                    self._ended, sequence = _stopped(choice)
                    out.append(Ended(self._ended, sequence))
            if usage is not None:
                out.append(Counted(usage))
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
    if count is None:
        return None
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
    """Why it ended, and the stop sequence where the provider tells which."""
    if choice.finish_reason == "stop" and type(choice.stop_reason) is str:
        return Stop.SEQUENCE, choice.stop_reason
    return _STOP.get(choice.finish_reason or "", Stop.END), None


def _said(said: _Said, calls: dict[int, int]) -> list[Event]:
    out: list[Event] = []
    thought = said.reasoning_content or said.reasoning
    if thought:
        out.append(ReasoningDelta(thought))
    if said.content:
        out.append(TextDelta(said.content))
    if said.refusal:
        out.append(RefusalDelta(said.refusal))
    for at, call in enumerate(said.tool_calls or ()):
        # Some leave the index out where there is but one call, or where the answer is plain.
        index = at if call.index is None else call.index
        function = call.function or _Function()
        if index not in calls:
            if function.name is None:
                raise Garbled("a call of a tool begins without a name")
            calls[index] = len(calls)
            out.append(
                ToolCallBegan(
                    calls[index], call.id or f"call_{index}", function.name, _signature(call.extra_content)
                )
            )
        if function.arguments:
            out.append(ToolCallDelta(calls[index], function.arguments))
    return out


def _signature(extra: dict[str, Any] | None) -> str:
    google = extra.get("google") if extra else None
    found = google.get("thought_signature") if type(google) is dict else None
    return found if type(found) is str else ""


def _messages(message: Message) -> list[dict[str, Any]]:
    if message.role == "user":
        return _user(message)
    text = "".join(part.text for part in message.parts if isinstance(part, Text))
    # Thoughts are left out: providers of this family take none back.
    refusal = "".join(part.text for part in message.parts if isinstance(part, Refusal))
    calls = [
        {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": part.arguments}}
        for part in message.parts
        if isinstance(part, ToolCall)
    ]
    written: dict[str, Any] = {"role": "assistant", "content": text or (None if calls or refusal else "")}
    if refusal:
        written["refusal"] = refusal
    if calls:
        written["tool_calls"] = calls
    return [written]


def _user(message: Message) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    shown: list[Text | Image] = []
    for part in message.parts:
        match part:
            case ToolResult():
                words = [each for each in part.content if isinstance(each, Text)]
                text = "".join(each.text for each in words)
                out.append({"role": "tool", "tool_call_id": part.call_id, "content": text})
                # Results take words only; a picture goes along with what the user says next.
                shown += [each for each in part.content if isinstance(each, Image)]
            case Text() | Image():
                shown.append(part)
            case _:
                continue
    if shown and all(isinstance(part, Text) for part in shown):
        out.append(
            {"role": "user", "content": "".join(part.text for part in shown if isinstance(part, Text))}
        )
    elif shown:
        out.append({"role": "user", "content": [_part(part) for part in shown]})
    return out


def _part(part: Text | Image) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    url = part.url or f"data:{part.media_type};base64,{part.data}"
    return {"type": "image_url", "image_url": {"url": url}}


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.parameters}
    if tool.description:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _effort(budget: int | None) -> str | None:
    if budget is None:
        return None
    return "low" if budget <= 2048 else "medium" if budget <= 12_288 else "high"
