"""One call of a tool at a time, of a provider that cannot be told so: the first call of an answer is handed on, no other.

A client that asks for it runs what it gets and comes back with the result; what it does not get it never hears of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from engines.canonical import Answer, Event, ToolCall, ToolCallBegan, ToolCallDelta


def asks_for_one(body: Mapping[str, Any]) -> bool:
    """Whether a call's body says so, in whichever client's dialect."""
    if body.get("parallel_tool_calls") is False:
        return True
    choice = body.get("tool_choice")
    return type(choice) is dict and cast("dict[str, Any]", choice).get("disable_parallel_tool_use") is True


def first_call_alone(answer: Answer) -> Answer:
    """The same answer with the first of its calls."""
    calls = [part for part in answer.parts if isinstance(part, ToolCall)]
    if len(calls) < 2:
        return answer
    kept = (part for part in answer.parts if not isinstance(part, ToolCall) or part is calls[0])
    return msgspec.structs.replace(answer, parts=tuple(kept))


def without_further_calls(events: list[Event]) -> list[Event]:
    """Of a stream's events those that are no call's, or the first one's."""
    return [
        each for each in events if not (isinstance(each, (ToolCallBegan, ToolCallDelta)) and each.index > 0)
    ]
