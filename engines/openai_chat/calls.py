"""Calls of tools as providers of OpenAI's chat stream them, put in order: one after the other, each begun once.

Some number every call 0, leave numbers out, or write two calls at once. A call is another one where it has another id and a name,
and what is said of later calls waits until the one before it is whole, or until the answer ends.
"""

from __future__ import annotations

from typing import Any

import msgspec

from engines.canonical import Event, ToolCallBegan, ToolCallDelta
from engines.errors import Garbled
from engines.sse import MAX_EVENT

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_MOST_LOOKED_AT = 4 * MAX_EVENT
"""Of one answer, while others wait for a call's end: who writes on for ever is not read from the beginning for each piece."""


class Calls:
    """The calls of one answer."""

    __slots__ = ("_held", "_ids", "_known", "_looked_at", "_open", "_said", "_waiting")

    def __init__(self) -> None:
        self._known: dict[int, int] = {}
        """The provider's number of a call -> ours, of the last one that had it."""
        self._ids: list[str] = []
        self._open = -1
        """The call that is told now."""
        self._said: list[str] = []
        """Its arguments."""
        self._waiting: list[list[Event]] = []
        """What came of each call after that one."""
        self._held = 0
        self._looked_at = 0

    def take(
        self, number: int, identity: str | None, name: str | None, arguments: str, signature: str
    ) -> list[Event]:
        """What is known of the calls by a piece of one; raises Garbled where it begins without a name."""
        at = self._known.get(number, -1)
        events: list[Event] = []
        if at < 0 or (identity and name and identity != self._ids[at]):
            if name is None:
                raise Garbled("a call of a tool begins without a name")
            self._known[number] = at = len(self._ids)
            self._ids.append(identity or f"call_{at}")
            events.append(ToolCallBegan(at, self._ids[at], name, signature))
        if arguments:
            events.append(ToolCallDelta(at, arguments))
        return self._told(at, events, len(arguments))

    def end(self) -> list[Event]:
        """What still waits when the answer ends."""
        out = [event for events in self._waiting for event in events]
        self._waiting.clear()
        return out

    def _told(self, at: int, events: list[Event], size: int) -> list[Event]:
        if at == self._open:
            self._note(events)
            if not self._waiting:
                return events
        elif at < self._open:
            raise Garbled("arguments of a call that is over")
        else:
            self._held += size
            if self._held > MAX_EVENT:
                raise Garbled("calls of tools are over 8 MiB")
            while len(self._waiting) < at - self._open:
                self._waiting.append([])
            self._waiting[at - self._open - 1] += events
            events = []
        while self._waiting and self._over():
            self._open += 1
            self._said.clear()
            begun = self._waiting.pop(0)
            self._note(begun)
            events += begun
        return events

    def _note(self, events: list[Event]) -> None:
        self._said += [each.arguments for each in events if isinstance(each, ToolCallDelta)]

    def _over(self) -> bool:
        """Whether the call that is told now is known to be whole; what waits is told at the end at the latest."""
        if self._open < 0:
            return True
        if self._looked_at > _MOST_LOOKED_AT or not self._said or not self._said[-1].rstrip().endswith("}"):
            return False
        arguments = "".join(self._said)
        self._looked_at += len(arguments)
        try:
            _decode(arguments)
        except msgspec.MsgspecError:
            return False
        return True
