"""A stream that passes through because client and provider speak the same dialect: read frame by frame, and passed on as it is.

Output stops before the frame that would pass `limit`, and an answer is whole only when its provider said so; the frame that
says so waits for the settlement.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import lru_cache
from typing import Any

from engines.canonical import Event
from engines.errors import EngineError, Garbled
from engines.sse import Events
from engines.tally import Tally
from engines.told import ReadUsage, note_told


class SharedStream(Tally):
    """The port `StreamReader`, but for what a dialect says in its own words."""

    __slots__ = ("_events", "_held", "_last", "done", "exhausted")
    read_usage: ReadUsage
    """Of the dialect."""

    def __init__(self, *, limit: int, most: int | None) -> None:
        super().__init__(limit=limit, most=most)
        self._events = Events()
        self._held: list[tuple[bytes, Any, list[Event]]] = []
        """Frames that were read and wait for the limit to be raised, with what they are about and what they count."""
        self._last = b""
        self.done = False
        self.exhausted = False

    def feed(self, data: bytes) -> bytes:
        """Take what arrived, give what the client gets. After `exhausted`, raise `limit` and feed b"" to go on."""
        if data:
            self._read(self._events.feed(data))
        self.exhausted = False
        out: list[bytes] = []
        passed = 0
        for frame, about, events in self._held:
            for event in events:
                if not self.fits(event):
                    self.exhausted = True
                    break
            if self.exhausted:
                break
            passed += 1
            if self._is_last(about):
                self._last = frame
                self.done = True
                out.append(self._waiting())
                break
            out.append(self._passed(frame, about))
        del self._held[:passed]
        return out[0] if len(out) == 1 else b"".join(out)

    def ended(self) -> None:
        """The upstream closed; raises Garbled unless the answer was whole. What is left comes with the next feed."""
        self._read(self._events.rest())
        if not self._is_whole():
            raise Garbled("the stream ended before its answer did")

    def terminal(self) -> bytes:
        """The frame that ends the answer, the provider's own where it came to that."""
        return self._last

    def _read(self, frames: list[tuple[str, bytes]]) -> None:
        payload = b""
        try:
            for _, payload in frames:
                if self._is_whole():
                    return
                events: list[Event] = []
                # Line ends of its own are between the values: within one they would not be JSON.
                self._held.append((*self._taken(payload.replace(b"\n", b" "), events), events))
        except EngineError as exc:
            before = [event for *_, events in self._held for event in events]
            note_told(exc, self.read_usage, payload, before)
            raise

    def _waiting(self) -> bytes:
        """What was held back of the frames that passed."""
        return b""

    @abstractmethod
    def _taken(self, payload: bytes, events: list[Event]) -> tuple[bytes, Any]:
        """A frame for the client and what it is about; adds what it counts to `events`. Raises EngineError."""

    @abstractmethod
    def _passed(self, frame: bytes, about: Any) -> bytes:
        """What the client gets now that the frame fits."""

    @abstractmethod
    def _is_last(self, about: Any) -> bool:
        """Whether that was the frame that ends the answer."""

    @abstractmethod
    def _is_whole(self) -> bool:
        """Whether the provider has said that the answer is whole."""


def named(kind: str, payload: bytes) -> bytes:
    """A frame with its name; raises Garbled for a name that is none."""
    return b"%b%b\n\n" % (_head(kind), payload)


@lru_cache(maxsize=256)
def _head(kind: str) -> bytes:
    if not kind.replace(".", "_").isidentifier():
        raise Garbled("an event's name is none")
    return b"event: %b\ndata: " % kind.encode()
