"""A stream that is translated: a provider's bytes in, the client's bytes out, counted on the way.

The same promises as engines/chat_stream.py keeps for streams that pass through: output stops before the event that would
pass `limit`, and an answer is whole only when the provider said so. Where a provider counts only at the end, tokens
are estimated from the text until then, never beyond what it was told to stop at.
"""

from __future__ import annotations

from engines.canonical import Counted, Event
from engines.dialects import EventReader, EventWriter
from engines.one_call import without_further_calls
from engines.tally import Tally, can_be


class TranslatedStream(Tally):
    """The state of one stream; the port `StreamReader`."""

    __slots__ = ("_held", "_one_call", "_source", "_writer", "done", "exhausted", "show_usage")

    def __init__(
        self,
        source: EventReader,
        writer: EventWriter,
        *,
        limit: int,
        most: int | None,
        show_usage: bool,
        one_call: bool = False,
    ) -> None:
        super().__init__(limit=limit, most=most)
        self._source = source
        self._writer = writer
        self._held: list[Event] = []
        self._one_call = one_call
        self.show_usage = show_usage
        self.done = False
        self.exhausted = False

    def feed(self, data: bytes) -> bytes:
        """Take what arrived, give what the client gets. After `exhausted`, raise `limit` and feed b"" to go on."""
        events = self._source.read(data) if data else []
        if self._held:
            events = self._held + events
            self._held = []
        self.exhausted = False
        passed = len(events)
        for at, event in enumerate(events):
            if not self.fits(event):
                passed, self.exhausted = at, True
                self._held = events[at:]
                break
        told = events if passed == len(events) else events[:passed]
        if self.distrusted:
            # A count that cannot be is none: what is on record in its place is an estimate, and the client is told as much.
            told = [each for each in told if type(each) is not Counted or can_be(each.usage)]
        if self._one_call:
            # What is not handed on was made all the same: it is counted above.
            told = without_further_calls(told)
        out = self._writer.write(told) if passed else b""
        if self._source.done and not self.exhausted and not self.done:
            self.done = True
            out += self._writer.finish()
        return out

    def ended(self) -> None:
        """The upstream closed; raises Garbled unless the answer was whole. What is left comes with the next feed."""
        self._held += self._source.ended()

    def closing_events(self, *, extra: dict[str, object]) -> bytes:
        """The client's last events when the gateway ends the stream."""
        self._writer.write([Counted(self.usage())])
        return self._writer.cut(extra)

    def terminal(self) -> bytes:
        """The client's last frame."""
        return self._writer.terminal()

    def failed(self, code: str, message: str) -> bytes:
        """The client's last frame when the answer cannot go on."""
        return self._writer.failed(code, message)
