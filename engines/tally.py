"""How far an answer is, in tokens: counted by its provider where it counts, estimated from the text until then.

Never more is estimated than the answer was told to stop at, and nothing is counted that would pass the limit.
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
    ToolCallBegan,
    ToolCallDelta,
    Usage,
)
from engines.messages import ABSURD, Count

_BYTES_A_TOKEN = 4
_CALL_BYTES = 512
"""What a model may write around a call's arguments: its name, and words of a template that nobody sees."""


class Tally:
    """The counts of one stream, as the port `StreamReader` shows them."""

    __slots__ = (
        "_ahead",
        "_most",
        "count",
        "counted",
        "distrusted",
        "finish_reason",
        "limit",
        "model",
        "running",
        "said",
    )
    estimates = True

    steady = False
    """Each event may change any of it."""

    def __init__(self, *, limit: int, most: int | None) -> None:
        self._most = ABSURD if most is None else most
        self._ahead = False
        """What comes up to the next count is in the last one already."""
        self.limit = limit
        self.count: Count | None = None
        self.counted = 0
        self.running = 0
        self.said = 0
        """Bytes of all words, thoughts and calls that were passed on, or a number above."""
        self.finish_reason: str | None = None
        self.model: str | None = None
        self.distrusted = False
        """The upstream sent a usage that cannot be (negative, absurd)."""

    def usage(self) -> Usage:
        """What is known, for the client's last events."""
        return _usage(self.count) if self.count is not None else Usage(output=self.counted)

    def fits(self, event: Event) -> bool:
        """Count the event; False, and nothing counted, where it would pass the limit."""
        if type(event) is TextDelta or isinstance(event, RefusalDelta):
            return self._grown(event.text)
        if isinstance(event, ReasoningDelta):
            # Of a thought that is not shown there is its proof alone.
            self.said += len(event.signature) + len(event.redacted)
            return self._grown(event.text)
        if isinstance(event, ToolCallDelta):
            return self._grown(event.arguments)
        if isinstance(event, ToolCallBegan):
            self.said += _CALL_BYTES
            return True
        if isinstance(event, Counted):
            return self._counts(event)
        if isinstance(event, Ended):
            self.finish_reason = event.stop.finish_reason
        elif isinstance(event, Began):
            self.model = event.model
        return True

    def _grown(self, text: str) -> bool:
        size = len(text) if text.isascii() else len(text.encode())
        if self._ahead:
            self.counted += 1
            self.said += size
            return True
        running = self.running - (-size // _BYTES_A_TOKEN)
        if running > self._most:
            running = max(self._most, self.running)
        if running > self.limit:
            return False
        self.counted += running - self.running
        self.said += size
        self.running = running
        count = self.count
        if count is not None:
            thought = count.reasoning if count.reasoning < running else running
            self.count = Count(count.prompt, running, count.cached, thought, count.cache_write, False)
        return True

    def _counts(self, event: Counted) -> bool:
        """Take over a provider's count; False where what it counts ahead would pass the limit."""
        usage = event.usage
        self._ahead = False
        read, written, thought = usage.cache_read, usage.cache_write, usage.reasoning
        prompt, completion = usage.fresh + read + written, usage.output + thought
        if (
            usage.fresh < 0 or read < 0 or written < 0 or usage.output < 0 or thought < 0
            or prompt > ABSURD or completion > ABSURD
        ):  # fmt: skip
            self.distrusted = True
            return True
        if event.ahead and completion > self.limit:
            return False
        self._ahead = event.ahead
        self.count = Count(prompt, completion, read, thought, written)
        if event.input_only:
            self.count = Count(prompt, self.running, read, min(thought, self.running), written, False)
        else:
            self.running = completion
        return True


def _usage(count: Count) -> Usage:
    return Usage(
        fresh=count.prompt - count.cached - count.cache_write,
        cache_read=count.cached,
        cache_write=count.cache_write,
        output=count.completion - count.reasoning,
        reasoning=count.reasoning,
    )
