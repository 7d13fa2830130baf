"""An answer whole as the events of a stream, and a stream's events as the answer whole: each undoes the other."""

from __future__ import annotations

from collections.abc import Iterable
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
    Text,
    TextDelta,
    ToolCall,
    ToolCallBegan,
    ToolCallDelta,
)


def told(answer: Answer) -> list[Event]:
    """The events of an answer that came whole."""
    events: list[Event] = [Began(answer.id, answer.model)]
    calls = 0
    for part in answer.parts:
        match part:
            case Text(text=text):
                events.append(TextDelta(text))
            case Reasoning(text=text, signature=signature, redacted=redacted):
                events.append(ReasoningDelta(text, signature, redacted))
            case Refusal(text=text):
                events.append(RefusalDelta(text))
            case ToolCall():
                events.append(ToolCallBegan(calls, part.id, part.name, part.signature))
                events.append(ToolCallDelta(calls, part.arguments))
                calls += 1
    events.append(Ended(answer.stop, answer.sequence))
    if answer.usage is not None:
        events.append(Counted(answer.usage))
    return events


def assembled(events: Iterable[Event]) -> Answer:
    """The answer that a stream of events makes; raises ValueError unless it ends exactly once."""
    parts: list[Text | Reasoning | ToolCall | Refusal] = []
    began, ended, usage = Began(), None, None
    for event in events:
        last = parts[-1] if parts else None
        match event:
            case Began():
                began = event
            case TextDelta(text=text):
                _grow(parts, Text((last.text if isinstance(last, Text) else "") + text), last)
            case RefusalDelta(text=text):
                _grow(parts, Refusal((last.text if isinstance(last, Refusal) else "") + text), last)
            case ReasoningDelta():
                if event.redacted or not isinstance(last, Reasoning) or last.redacted or last.signature:
                    parts.append(Reasoning(event.text, event.signature, event.redacted))
                else:
                    parts[-1] = Reasoning(last.text + event.text, event.signature)
            case ToolCallBegan():
                parts.append(ToolCall(event.id, event.name, "", event.signature))
            case ToolCallDelta():
                _argue(parts, event)
            case Counted():
                usage = usage if event.input_only else event.usage
            case Ended():
                if ended is not None:
                    raise ValueError("the stream ended twice")
                ended = event
    if ended is None:
        raise ValueError("the stream did not end")
    return Answer(tuple(parts), ended.stop, usage, began.id, began.model, ended.sequence)


def _grow(parts: list[Any], grown: Text | Refusal, last: Any) -> None:
    if type(last) is type(grown):
        parts[-1] = grown
    else:
        parts.append(grown)


def _argue(parts: list[Text | Reasoning | ToolCall | Refusal], event: ToolCallDelta) -> None:
    index = -1
    for at, part in enumerate(parts):
        if isinstance(part, ToolCall):
            index += 1
            if index == event.index:
                parts[at] = msgspec.structs.replace(part, arguments=part.arguments + event.arguments)
                return
    raise ValueError("arguments of a call that never began")
