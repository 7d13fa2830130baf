"""An answer that came whole, read by comparing it with what answers of its upstream look like.

What it says is what reading it event by event would come to, and so is what its client gets; the tests hold it to that.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

import msgspec

from engines.likeness import COMPLETION, MOST_COUNTED, PLAIN, are_words
from engines.messages import Count, WireUsage, believed

DONE = b"data: [DONE]\n\n"
USAGE = b',"usage":'
CLOSING = b"]" + USAGE
"""From the stem of the last event to its usage."""
TOTAL = b',"total_tokens":'
_NEAR = 1 << 10
"""The usage is looked for in so much of an answer's end."""
_MOST = 4_096
"""Numbers that are kept as they are written; no answer that comes in one piece has so many words."""
_SIMPLE = (
    re.escape(CLOSING)
    + rb'\{"prompt_tokens":(0|[1-9]\d{0,6}),"total_tokens":(?:0|[1-9]\d{0,6}),"completion_tokens":(0|[1-9]\d{0,6})\}'
)
_NEAR_SIMPLE = len(CLOSING) + len('{"prompt_tokens":,"total_tokens":,"completion_tokens":}') + 3 * 7
"""The longest of these."""
_decode_usage = msgspec.json.Decoder(WireUsage).decode
_Cut = Callable[[bytes | memoryview], list[bytes]]


class Whole(msgspec.Struct, frozen=True, gc=False):
    """What an answer says that came whole."""

    shown: bytes
    """All of it that is for the client."""
    words: int
    """Events with words, each a token at least."""
    count: Count
    finish_reason: str | None
    model: str | None
    around: int
    """Bytes of such an event that are neither words nor counts."""
    stem: bytes = b""
    """What all its events begin with, up to their choices."""
    texts: list[bytes] = []
    """Its words as JSON writes them, none of them empty."""
    sequence: str | None = None
    """The stop sequence that ended it, where that is told."""
    running: bool = False
    """Its events tell the tokens so far."""


class Ends(msgspec.Struct, frozen=True, gc=False):
    """What both kinds of forms have in common: how all events begin, and how an answer ends."""

    stem: Callable[[bytes], re.Match[bytes] | None]
    """Finds what all events begin with, up to their choices."""
    model: str | None
    before: bytes
    """From the stem to the words."""
    bare: bool
    """The last event of the answer has no words."""
    finish_reason: str | None
    sequence: str | None
    after: bytes
    """From the usage on."""
    closing: Callable[[bytes, int], re.Match[bytes] | None]
    """Finds the usage of the most usual kind with all that is around it, at the end of an answer."""

    def find(self, data: bytes) -> tuple[bytes, int, Count] | None:
        """What all events begin with, where the event of the usage begins, and what it says."""
        found, after = self.stem(data), self.after
        if found is None:
            return None
        stem = found[0]
        simple = self.closing(data, max(0, len(data) - len(after) - _NEAR_SIMPLE))
        if simple is not None:
            begins = simple.start() - len(stem)
            if begins < 0 or not data.startswith(stem, begins):
                return None
            prompt, completion = simple.groups()
            return stem, begins, Count(int(prompt), int(completion))
        if not data.endswith(after):
            return None
        at = data.rfind(CLOSING, -len(after) - _NEAR)
        begins = at - len(stem)
        if begins < 0 or not data.startswith(stem, begins):
            return None
        told = data[at + len(CLOSING) : -len(after)]
        if not told.isascii() or b"\n" in told or b"\r" in told:
            return None
        try:
            count = believed(_decode_usage(told))
        except msgspec.MsgspecError:
            return None
        return None if count is None else (stem, begins, count)


def closing_of(after: bytes) -> Callable[[bytes, int], re.Match[bytes] | None]:
    """What finds the usage of the most usual kind before `after`, which ends an answer; its counts are believed."""
    return re.compile(_SIMPLE + re.escape(after) + rb"\Z").search


class Plain:
    """Of answers that tell their usage at the end alone."""

    __slots__ = ("_closing", "_ends", "_opening", "_tail")

    def __init__(self, ends: Ends, opening: bytes, tail: bytes, closing: bytes) -> None:
        self._ends = ends
        self._opening = opening
        """The event before the words, after the stem."""
        self._tail = tail
        """From the words to the next event."""
        self._closing = closing
        """The same of the last event; all after its stem where it has no words."""

    def read(self, data: bytes, limit: int, show_usage: bool, show_running: bool) -> Whole | None:
        ends = self._ends
        told = ends.find(data)
        if told is None:
            return None
        stem, until, count = told
        head = stem + ends.before
        between = self._tail + head
        opening = self._opening + head
        start = len(stem) + len(opening)
        closing = self._tail + stem + self._closing if ends.bare else self._closing
        end = until - len(closing)
        if end <= start or not data.startswith(opening, len(stem)) or not data.startswith(closing, end):
            return None
        region = data[start:end]
        four, one = _at(len(between))
        words = four(region)
        words[-1:] = one(words[-1])
        if between.join(words) != region:
            return None
        number = len(words)
        if not (1 if ends.bare else 2) <= number <= limit:
            return None
        text = b"\n".join(words)
        if (len(text.translate(None, PLAIN)) != number - 1 or b"" in words) and not are_words(words):
            return None
        around = len(between) - 2
        shown = data if show_usage else b"".join((memoryview(data)[:until], DONE))
        return Whole(shown, number, count, ends.finish_reason, ends.model, around, stem, words, ends.sequence)


class Counted:
    """Of answers that tell the tokens so far in each event."""

    __slots__ = (
        "_closing",
        "_counts",
        "_cut",
        "_cut_closing",
        "_cut_opening",
        "_ends",
        "_middle",
        "_opening",
        "_tail",
    )

    def __init__(
        self,
        ends: Ends,
        opening: tuple[bytes, bytes],
        middle: bytes,
        tail: bytes,
        closing: tuple[bytes, bytes],
    ) -> None:
        """`opening` and `closing` are the events around the words with their counts to be put in, and without."""
        self._ends = ends
        self._opening, self._cut_opening = opening
        self._closing, self._cut_closing = closing
        self._middle = middle
        """From the words to the prompt's count."""
        self._cut = middle[: middle.rindex(USAGE)] + b"}\n\n"
        """What follows the words where the counts are not shown."""
        self._tail = tail
        """From the counts to the next event."""
        self._counts: list[bytes] = []
        """All that there is of each number of tokens from its name on."""

    def read(self, data: bytes, limit: int, show_usage: bool, show_running: bool) -> Whole | None:
        ends, tail = self._ends, self._tail
        told = ends.find(data)
        if told is None:
            return None
        stem, until, count = told
        prompt, completion = count.prompt, count.completion
        if prompt + _MOST > MOST_COUNTED:
            return None
        head = stem + ends.before
        opening = self._opening % (prompt, prompt, 0) + head
        start = len(stem) + len(opening)
        closing = self._closing % (prompt, prompt + completion, completion)
        if ends.bare:
            closing = stem + closing
        end = until - len(closing)
        if end <= start or not data.startswith(opening, len(stem)) or not data.startswith(closing, end):
            return None
        middle = b"%b%d%b" % (self._middle, prompt, TOTAL)
        region = data[start:end]
        four, one = _at_counts(len(middle), len(tail) + len(head))
        words = four(region + head if ends.bare else region)
        words[-1:] = one(words[-1])
        if ends.bare:
            words.pop()
        number = len(words)
        if not (1 if ends.bare else 2) <= number <= _MOST or completion > limit or number > limit:
            return None
        if number > len(self._counts):
            self._count_to(number)
        parts = [b"", middle, b"", b"", head] * number
        parts[::5], parts[2::5], parts[3::5] = words, _sums(prompt, number), self._counts[:number]
        del parts[-1 if ends.bare else -4 :]
        if b"".join(parts) != region:
            return None
        text = b"\n".join(words)
        if (len(text.translate(None, PLAIN)) != number - 1 or b"" in words) and not are_words(words):
            return None
        around = len(head) + len(middle) + len(tail) - 2
        if show_running:
            shown = data if show_usage else b"".join((memoryview(data)[:until], DONE))
        else:
            cut = self._cut
            shown = b"".join(
                (
                    stem,
                    self._cut_opening,
                    head,
                    (cut + head).join(words),
                    cut + stem if ends.bare else b"",
                    self._cut_closing,
                    data[until:] if show_usage else DONE,
                )
            )
        return Whole(
            shown, number, count, ends.finish_reason, ends.model, around, stem, words, ends.sequence, True
        )

    def _count_to(self, number: int) -> None:
        """Have what tells 1, 2, ... tokens, up to the next event."""
        counts = self._counts
        while len(counts) < number:
            counts.append(b"%b%d%b" % (COMPLETION, len(counts) + 1, self._tail))


@lru_cache(maxsize=256)
def _at(between: int) -> tuple[_Cut, _Cut]:
    """What cuts where so many bytes stand between words, from a quote on."""
    return _cutters(rb'".{%d}+' % (between - 1))


@lru_cache(maxsize=256)
def _at_counts(middle: int, between: int) -> tuple[_Cut, _Cut]:
    """The same where two counts are among them."""
    return _cutters(rb'".{%d}+\d++.{%d}+\d++.{%d}+' % (middle - 1, len(COMPLETION), between))


def _cutters(between: bytes) -> tuple[_Cut, _Cut]:
    """What cuts at four places at once, which takes less than four times as long, and what cuts at one."""
    four = rb'([^"]++)'.join([between] * 4)
    return re.compile(b"(?s)" + four).split, re.compile(b"(?s)" + between).split


def _sums(prompt: int, number: int) -> list[bytes]:
    """The counts of all tokens with 1, 2, ... of output."""
    if prompt + number <= _MOST:
        return _numbers()[prompt + 1 : prompt + 1 + number]
    return [b"%d" % each for each in range(prompt + 1, prompt + 1 + number)]


@lru_cache(maxsize=1)
def _numbers() -> list[bytes]:
    return [b"%d" % each for each in range(_MOST + 1)]
