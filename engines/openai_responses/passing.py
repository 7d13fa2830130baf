"""OpenAI's Responses where client and provider both speak them: bodies and frames pass through, and only counts are read of them.

Nothing is kept at the provider, whatever it does by itself: the conversation is the whole of `input`. What the client is told
of its own (an id to follow, its metadata) is the gateway's, and is written into the response where there is any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from engines.answer_json import decoded
from engines.canonical import (
    Began,
    Counted,
    Ended,
    Event,
    ReasoningDelta,
    RefusalDelta,
    Stop,
    TextDelta,
    ToolCallDelta,
)
from engines.errors import Garbled, Reported
from engines.messages import Answer, Choice, CompletionDetails, PromptDetails, WireUsage
from engines.openai_responses.answers import WireCounts, responses_count, stop_of, usage_of
from engines.openai_responses.sealed import is_ours
from engines.openai_responses.under_way import NOTHING, Happened, UnderWay
from engines.shared_stream import SharedStream, named

_OURS = frozenset({"id", "store", "previous_response_id", "metadata"})
"""Told to the gateway alone."""
_ENDS = ("response.completed", "response.incomplete")
_PREAMBLE = frozenset({"response.created", "response.queued", "response.in_progress"})
_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


class _Kind(msgspec.Struct, gc=False):
    type: str = ""


class _Incomplete(msgspec.Struct, gc=False):
    reason: str = ""


class _Response(msgspec.Struct, gc=False):
    status: str = ""
    model: str | None = None
    id: str | None = None
    output: list[_Kind] = []
    usage: WireCounts | None = None
    incomplete_details: _Incomplete | None = None


_decode_response = msgspec.json.Decoder(_Response).decode
_decode_event = msgspec.json.Decoder(Happened).decode


def passed_body(
    body: Mapping[str, Any], *, model: str, max_tokens: int | None, stream: bool
) -> dict[str, Any]:
    """What is sent: what the client sent, and what the gateway sets."""
    sent = {name: value for name, value in body.items() if name not in _OURS}
    if type(items := body.get("input")) is list:
        sent["input"] = [each for each in cast("list[Any]", items) if not _is_foreign_thought(each)]
    sent["model"] = model
    sent["store"] = False
    if max_tokens is not None:
        sent["max_output_tokens"] = max_tokens
    if stream:
        sent["stream"] = True
    return sent


def told_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """What the gateway has to say in the response to a request, in place of the provider; empty for most."""
    told: dict[str, Any] = {}
    if body.get("id") is not None:
        told |= {"id": body["id"], "store": True}
    for name in ("previous_response_id", "metadata"):
        if body.get(name):
            told[name] = body[name]
    return told


def read_passed(body: bytes) -> Answer:
    """What the line reads of a plain response; raises Garbled, or Reported for one that failed."""
    response = decoded(_decode_response, body)
    stop = _stop(response)
    usage = response.usage
    wire = None
    if usage is not None:
        read, thought = usage.input_tokens_details, usage.output_tokens_details
        wire = WireUsage(
            usage.input_tokens,
            usage.output_tokens,
            usage.total_tokens,
            None if read is None else PromptDetails(read.cached_tokens, read.cache_write_tokens),
            None if thought is None else CompletionDetails(thought.reasoning_tokens),
        )
    return Answer([Choice(finish_reason=stop.finish_reason)], wire, response.model)


def retold(body: bytes, told: Mapping[str, Any]) -> bytes:
    """The response with what the gateway has to say; the provider's own bytes where that is nothing."""
    return _encode({**decoded(_decode_object, body), **told}) if told else body


class ResponsesStream(SharedStream):
    """The port `StreamReader`."""

    __slots__ = ("_ended", "_preamble", "_told", "_under_way")
    read_usage = staticmethod(responses_count)

    def __init__(self, told: Mapping[str, Any], *, limit: int, most: int | None) -> None:
        super().__init__(limit=limit, most=most)
        self._told = told
        self._under_way = UnderWay(told)
        self._preamble: list[bytes] | None = []
        """Frames that say nothing yet, up to the first that does: a stream that dies before can be had elsewhere."""
        self._ended = False

    def closing_events(self, *, extra: dict[str, object]) -> bytes:
        """The client's last events when the gateway ends the stream: what is open is over, for its length."""
        closing, self._last = self._under_way.cut(self.usage(), extra)
        return self._waiting() + closing

    def failed(self, code: str, message: str) -> bytes:
        """The frame that ends a stream whose answer cannot go on."""
        return self._under_way.failed(code, message)

    def _taken(self, payload: bytes, events: list[Event]) -> tuple[bytes, Happened]:
        event = decoded(_decode_event, payload)
        kind = event.type
        if kind.endswith(".delta"):
            _grow(kind, event.delta, events)
        elif event.response is not NOTHING:
            self._read_response(event, events)
            if self._told and kind.startswith("response."):
                payload = self._retold(payload)
        elif kind == "error":
            raise Reported
        elif not event.is_sound():
            raise Garbled("an item is no object")
        return named(kind, payload), event

    def _passed(self, frame: bytes, about: Happened) -> bytes:
        self._under_way.note(about)
        if self._preamble is None:
            return frame
        if about.type in _PREAMBLE:
            self._preamble.append(frame)
            return b""
        return self._waiting() + frame

    def _waiting(self) -> bytes:
        if not self._preamble:
            self._preamble = None
            return b""
        waiting, self._preamble = b"".join(self._preamble), None
        return waiting

    def _is_last(self, about: Happened) -> bool:
        return about.type in _ENDS

    def _is_whole(self) -> bool:
        return self._ended

    def _read_response(self, event: Happened, events: list[Event]) -> None:
        if event.type in _PREAMBLE:
            response = decoded(_decode_response, bytes(event.response))
            events.append(Began(response.id, response.model))
        elif event.type in _ENDS:
            response = decoded(_decode_response, bytes(event.response))
            usage = usage_of(response.usage)
            if usage is not None:
                events.append(Counted(usage))
            events.append(Ended(_stop(response)))
            self._ended = True
        elif event.type == "response.failed":
            raise Reported

    def _retold(self, payload: bytes) -> bytes:
        event = decoded(_decode_object, payload)
        event["response"] |= self._told
        return _encode(event)


def _stop(response: _Response) -> Stop:
    """Why it ended; raises EngineError for a response that has not, or failed."""
    if response.status == "failed":
        raise Reported
    if response.status not in ("completed", "incomplete"):
        raise Garbled("the response has not ended")
    why = response.incomplete_details
    return stop_of(None if why is None else why.reason, [each.type for each in response.output])


def _grow(kind: str, delta: Any, events: list[Event]) -> None:
    if type(delta) is not str:
        return
    if kind == "response.output_text.delta":
        events.append(TextDelta(delta))
    elif kind == "response.refusal.delta":
        events.append(RefusalDelta(delta))
    elif kind in ("response.reasoning_text.delta", "response.reasoning_summary_text.delta"):
        events.append(ReasoningDelta(delta))
    else:
        # Arguments of a call, whatever kind of tool it is of.
        events.append(ToolCallDelta(0, delta))


def _is_foreign_thought(item: Any) -> bool:
    """A thought that the provider has no proof of: it was another's, or was given without; no provider takes it back."""
    if type(item) is not dict:
        return False
    told = cast("dict[str, Any]", item)
    return told.get("type") == "reasoning" and (
        not told.get("encrypted_content") or is_ours(told["encrypted_content"])
    )
