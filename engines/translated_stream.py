"""A stream that is translated: a provider's bytes in, the client's bytes out, counted on the way.

The same promises as engines/chat_stream.py keeps for streams that pass through: output stops before the event that would
pass `limit`, and an answer is whole only when the provider said so. Where a provider counts only at the end, tokens
are estimated from the text until then, never beyond what it was told to stop at.
"""

from __future__ import annotations

from engines.canonical import (
    Began,
    Counted,
    Ended,
    Event,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from engines.dialects import EventReader, EventWriter
from engines.messages import ABSURD, Count

_BYTES_A_TOKEN = 4


class TranslatedStream:
    """The state of one stream; the port `StreamReader`."""

    __slots__ = (
        "_ahead",
        "_held",
        "_most",
        "_source",
        "_writer",
        "count",
        "counted",
        "distrusted",
        "done",
        "exhausted",
        "finish_reason",
        "limit",
        "model",
        "running",
        "show_usage",
    )

    def __init__(
        self, source: EventReader, writer: EventWriter, *, limit: int, most: int | None, show_usage: bool
    ) -> None:
        self._source = source
        self._writer = writer
        self._most = ABSURD if most is None else most
        self._held: list[Event] = []
        self._ahead = False
        """What comes up to the next count is in the last one already."""
        self.limit = limit
        self.show_usage = show_usage
        self.count: Count | None = None
        self.counted = 0
        self.running = 0
        self.finish_reason: str | None = None
        self.model: str | None = None
        self.done = False
        self.exhausted = False
        self.distrusted = False
        """The upstream sent a usage that cannot be (negative, absurd)."""

    def feed(self, data: bytes) -> bytes:
        """Take what arrived, give what the client gets. After `exhausted`, raise `limit` and feed b"" to go on."""
        events = self._source.read(data) if data else []
        if self._held:
            events = self._held + events
            self._held = []
        self.exhausted = False
        passed = len(events)
        for at, event in enumerate(events):
            if not self._fits(event):
                passed, self.exhausted = at, True
                self._held = events[at:]
                break
        out = self._writer.write(events[:passed]) if passed else b""
        if self._source.done and not self.exhausted and not self.done:
            self.done = True
            out += self._writer.finish()
        return out

    def ended(self) -> None:
        """The upstream closed; raises Garbled unless the answer was whole. What is left comes with the next feed."""
        self._held += self._source.ended()

    def closing_events(self, *, extra: dict[str, object]) -> bytes:
        """The client's last events when the gateway ends the stream."""
        usage = _usage(self.count) if self.count is not None else Usage(output=self.counted)
        self._writer.write([Counted(usage)])
        return self._writer.cut(extra)

    def terminal(self) -> bytes:
        """The client's last frame."""
        return self._writer.terminal()

    def failed(self, code: str, message: str) -> bytes:
        """The client's last frame when the answer cannot go on."""
        return self._writer.failed(code, message)

    def _fits(self, event: Event) -> bool:
        """Count the event; False, and nothing counted, where it would pass the limit."""
        if isinstance(event, (TextDelta, ReasoningDelta, RefusalDelta)):
            return self._grown(event.text)
        if isinstance(event, ToolCallDelta):
            return self._grown(event.arguments)
        if isinstance(event, Counted):
            return self._counts(event)
        if isinstance(event, Ended):
            self.finish_reason = event.stop.finish_reason
        elif isinstance(event, Began):
            self.model = event.model
        return True

    def _grown(self, text: str) -> bool:
        if self._ahead:
            self.counted += 1
            return True
        size = len(text) if text.isascii() else len(text.encode())
        tokens = -(-size // _BYTES_A_TOKEN)
        running = min(self.running + tokens, max(self._most, self.running))
        if running > self.limit:
            return False
        self.counted += running - self.running
        self.running = running
        if self.count is not None:
            self.count = _but(self.count, running, exact=False)
        return True

    def _counts(self, event: Counted) -> bool:
        """Take over a provider's count; False where what it counts ahead would pass the limit."""
        usage = event.usage
        self._ahead = False
        if not (
            min(usage.fresh, usage.cache_read, usage.cache_write, usage.output, usage.reasoning) >= 0
            and usage.prompt <= ABSURD
            and usage.completion <= ABSURD
        ):
            self.distrusted = True
            return True
        if event.ahead and usage.completion > self.limit:
            return False
        self._ahead = event.ahead
        self.count = Count(
            usage.prompt, usage.completion, usage.cache_read, usage.reasoning, usage.cache_write
        )
        if event.input_only:
            self.count = _but(self.count, self.running, exact=False)
        else:
            self.running = usage.completion
        return True


def _but(count: Count, completion: int, *, exact: bool) -> Count:
    return Count(
        count.prompt,
        completion,
        count.cached,
        min(count.reasoning, completion),
        count.cache_write,
        exact,
    )


def _usage(count: Count) -> Usage:
    return Usage(
        fresh=count.prompt - count.cached - count.cache_write,
        cache_read=count.cached,
        cache_write=count.cache_write,
        output=count.completion - count.reasoning,
        reasoning=count.reasoning,
    )
