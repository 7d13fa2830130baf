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
from engines.pieces import KEPT, Pieces

_BYTES_A_TOKEN = 4
_CALL_BYTES = 512
"""What a model may write around a call's arguments: its name, and words of a template that nobody sees."""


class Tally:
    """The counts of one stream, as the port `StreamReader` shows them."""

    __slots__ = (
        "_ahead",
        "_aside",
        "_most",
        "_texts",
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
        self._texts: list[str] = []
        """Text as it came, as long as there is little of it."""
        self._aside = False
        """Something else came that tokens are spent on."""
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

    def pieces(self) -> Pieces | None:
        """The words as they came, if there are only words."""
        texts = [each for each in self._texts if each]
        if self._aside or not texts:
            return None
        return Pieces(texts, min(1.0, sum(len(each.encode()) for each in texts) / self.said))

    def fits(self, event: Event) -> bool:
        """Count the event; False, and nothing counted, where it would pass the limit."""
        if type(event) is TextDelta:
            if not self._grown(event.text):
                return False
            if self.said < KEPT:
                self._texts.append(event.text)
            return True
        if isinstance(event, RefusalDelta):
            self._aside = True
            return self._grown(event.text)
        if isinstance(event, ReasoningDelta):
            self._aside = True
            # Of a thought that is not shown there is its proof alone.
            self.said += len(event.signature) + len(event.redacted)
            return self._grown(event.text)
        if isinstance(event, ToolCallDelta):
            return self._grown(event.arguments)
        if isinstance(event, ToolCallBegan):
            self.said += _CALL_BYTES
            self._aside = True
            return True
        if isinstance(event, Counted):
            return self._counts(event)
        if isinstance(event, Ended):
            self.finish_reason = event.stop.finish_reason
        elif isinstance(event, Began):
            self.model = event.model
        return True

    def estimate(self, sizes: list[int]) -> int:
        """The tokens of texts of so many bytes, each of which is some."""
        return min(self._most, sum([-(-size // _BYTES_A_TOKEN) for size in sizes]))

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
        if not can_be(usage):
            self.distrusted = True
            return True
        read, written, thought = usage.cache_read, usage.cache_write, usage.reasoning
        prompt, completion = usage.fresh + read + written, usage.output + thought
        if event.ahead and completion > self.limit:
            return False
        self._ahead = event.ahead
        self.count = Count(prompt, completion, read, thought, written)
        if event.input_only:
            self.count = Count(prompt, self.running, read, min(thought, self.running), written, False)
        else:
            self.running = completion
        return True


def can_be(usage: Usage) -> bool:
    """Whether such a count is possible: nothing below zero, nothing that no context holds."""
    return (
        usage.fresh >= 0 and usage.cache_read >= 0 and usage.cache_write >= 0 and usage.output >= 0
        and usage.reasoning >= 0 and usage.prompt <= ABSURD and usage.completion <= ABSURD
    )  # fmt: skip


def _usage(count: Count) -> Usage:
    return Usage(
        fresh=count.prompt - count.cached - count.cache_write,
        cache_read=count.cached,
        cache_write=count.cache_write,
        output=count.completion - count.reasoning,
        reasoning=count.reasoning,
    )
