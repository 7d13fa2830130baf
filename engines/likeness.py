"""A stream's frames are alike: one that differs from the last only in its words and counts is read by comparing bytes.

Learnt from a frame that was decoded; whatever does not fit byte for byte is decoded like any other. What fits is
valid JSON with exactly what the decoder would have found, which the tests hold it to. It takes a frame's reading from
5.0 to 2.4 us. Frames that come together are put together anew from what differs and compared as a
whole: a burst of 67 takes 50 us instead of 110, with counts in each 127 instead of 280.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from engines.messages import Answer, Count, believed

# All that a JSON string may hold in ASCII as it stands: no quote, no backslash, no control character.
_PLAIN = bytes(each for each in range(0x20, 0x7F) if each not in b'"\\')
_CONTENT = b'"content":"'
_COUNTS = re.compile(rb',"usage":(\{"prompt_tokens":\d+,"total_tokens":)\d+,"completion_tokens":\d+')
_COMPLETION = b',"completion_tokens":'
_DIGITS = 7
"""Of a count: below what is absurd."""
_one_value = msgspec.json.Decoder(msgspec.Raw).decode
# Words as JSON writes them, a line each: no control character, no quote as it stands, no lone surrogate.
_WORDS = re.compile(
    rb"(?:(?!\n)[ !#-\[\]-~\x80-\xff]*+"
    rb'(?:\\(?:["\\/bfnrt]|u(?![dD][89a-fA-F])[0-9a-fA-F]{4})[ !#-\[\]-~\x80-\xff]*+)*+\n)++'
)
_PAIRS = re.compile(rb"(?:[1-9]\d{0,6}+,[1-9]\d{0,6}+;)++")
_numbers = msgspec.json.Decoder(list[int]).decode


class Together(NamedTuple):
    """What several frames say."""

    shown: bytes
    """The frames without their usage; all of it where they carry none."""
    most: int
    """The highest count of completion tokens among them; the number of frames where they carry no count."""
    running: int
    """The last such count."""


class Likeness:
    """What stays the same: before the words, between them and the counts, and after the counts."""

    __slots__ = ("_head", "_middle", "_start", "_tail", "_usage_at", "count")

    def __init__(self, head: bytes, middle: bytes, tail: bytes, usage_at: int, count: Count | None) -> None:
        self._head = head
        self._start = len(head)
        self._middle = middle
        self._tail = tail
        self._usage_at = usage_at
        self.count = count
        """The count that it was learnt with; None where frames carry none."""

    @classmethod
    def of(cls, line: bytes, answer: Answer) -> Likeness | None:
        """The likeness of a decoded `data: {...}` line; None for a frame that is not of the usual kind."""
        if len(answer.choices) != 1 or line.count(_CONTENT) != 1:
            return None
        choice = answer.choices[0]
        delta = choice.delta
        if delta is None or choice.index or choice.finish_reason is not None:
            return None
        if delta.tool_calls or delta.reasoning_content or choice.text:
            return None
        start = line.index(_CONTENT) + len(_CONTENT)
        end = line.find(b'"', start)
        words = line[start:end]
        if not words or words.translate(None, _PLAIN) or delta.content != words.decode():
            return None
        if answer.usage is None:
            return cls(line[:start], line[end:], b"", len(line) - end, None)
        count, found = believed(answer.usage), _COUNTS.search(line, end)
        if count is None or count.reasoning or found is None:
            return None
        try:
            _one_value(line[found.start(1) : -1])
        except msgspec.MsgspecError:
            return None  # the usage is not the last member
        made = cls(line[:start], line[end : found.end(1)], line[found.end() :], found.start() - end, count)
        read = made.read(line)
        return made if read is not None and read[0] == count.completion else None

    @property
    def around(self) -> int:
        """Bytes of a frame that are neither words nor counts, its line end aside."""
        return len(self._head) + len(self._middle) + len(self._tail)

    def read(self, line: bytes) -> tuple[int, int] | None:
        """(completion tokens, where the usage begins) of a line that is alike, None of any other.

        Where frames carry no count it is (0, the end).
        """
        start, middle = self._start, self._middle
        if not line.startswith(self._head):
            return None
        end = line.find(middle, start)
        if end <= start or line[start:end].translate(None, _PLAIN):
            return None
        rest = line[end + len(middle) :]
        if self.count is None:
            return None if rest else (0, end + self._usage_at)
        total, _, rest = rest.partition(_COMPLETION)
        tail = self._tail
        completion = rest[: -len(tail)]
        if not (completion.isdigit() and total.isdigit() and rest.endswith(tail)):
            return None
        if len(total) > _DIGITS or len(completion) > _DIGITS or total[0] == 48 or completion[0] == 48:
            return None
        return int(completion), end + self._usage_at

    def read_all(self, lines: list[bytes]) -> Together | None:
        """What frames say that are all alike; None where one is not, or its words need a decoder."""
        start, middle, tail, number = self._start, self._middle, self._tail, len(lines)
        found = b"\n\n".join(lines)
        if self.count is None:
            drop = len(middle)
            words = [line[start:-drop] for line in lines]
            if self._frames(words, middle) != found + b"\n\n" or not _are_words(words):
                return None
            return Together(found + b"\n\n", number, number)
        # Three bytes are found much faster than all of it; where words hold them, the comparison fails.
        close = middle[:3]
        ends = [line.find(close, start) for line in lines]
        words = [line[start:end] for line, end in zip(lines, ends, strict=True)]
        skip, drop = len(middle), len(tail)
        counts = [line[end + skip : -drop] for line, end in zip(lines, ends, strict=True)]
        parts = [self._head, b"", middle, b"", tail + b"\n\n"] * number
        parts[1::5], parts[3::5] = words, counts
        if b"".join(parts) != found + b"\n\n" or not _are_words(words):
            return None
        pairs = b";".join(counts) + b";"
        if pairs.count(_COMPLETION) != number:
            return None
        pairs = pairs.replace(_COMPLETION, b",")
        if _PAIRS.fullmatch(pairs) is None:
            return None
        completions = _numbers(b"[%b]" % pairs[:-1].replace(b";", b","))[1::2]
        return Together(
            self._frames(words, middle[: self._usage_at] + b"}"), max(completions), completions[-1]
        )

    def _frames(self, words: list[bytes], rest: bytes) -> bytes:
        """The frames of these words that all go on like that."""
        rest += b"\n\n"
        return self._head + (rest + self._head).join(words) + rest


def _are_words(words: list[bytes]) -> bool:
    """Whether each is something, and what a JSON string may hold."""
    text = b"\n".join(words) + b"\n"
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError:
            return False
    return _WORDS.fullmatch(text) is not None
