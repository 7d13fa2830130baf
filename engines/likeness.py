"""A stream's frames are alike: one that differs from the last only in its words and counts is read by comparing bytes.

Learnt from a frame that was decoded; whatever does not fit byte for byte is decoded like any other. What fits is
valid JSON with exactly what the decoder would have found, which the tests hold it to.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import msgspec

from engines.messages import Answer, Count, believed

# All that a JSON string may hold in ASCII as it stands: no quote, no backslash, no control character.
PLAIN = bytes(each for each in range(0x20, 0x7F) if each not in b'"\\')
_CONTENT = b'"content":"'
_END = b"\n\n"
_CLOSED = b"}" + _END
_COUNTS = re.compile(rb',"usage":(\{"prompt_tokens":\d+,"total_tokens":)(\d+),"completion_tokens":(\d+)')
COMPLETION = b',"completion_tokens":'
MOST_COUNTED = 9_999_999
"""Of a count: below what is absurd."""
_one_value = msgspec.json.Decoder(msgspec.Raw).decode
# Words as JSON writes them: no control character, no quote as it stands, no lone surrogate.
# An atomic group around a greedy one: Python before 3.11.5 keeps what a possessive group took in vain (an unfinished escape).
_WORD = rb'[ !#-\[\]-~\x80-\xff]*+(?>(?:\\(?:["\\/bfnrt]|u(?![dD][89a-fA-F])[0-9a-fA-F]{4})[ !#-\[\]-~\x80-\xff]*+)*)'
_word = re.compile(_WORD).fullmatch
_words_at = re.compile(_WORD).match
_text = msgspec.json.Decoder(str).decode
_numbers = msgspec.json.Decoder(list[int]).decode


class Run(NamedTuple):
    """What frames say that follow each other and are all alike."""

    end: int
    """Where the last one ends."""
    number: int
    shown: bytes
    """The frames without their usage; all of it where they carry none, or it is shown."""
    most: int
    """The highest count of completion tokens among them; the number of frames where they carry no count."""
    running: int
    """The last such count."""


class Likeness:
    """What stays the same: before the words, between them and the counts, and after the counts."""

    __slots__ = (
        "_after",
        "_rest",
        "_start",
        "_usage_at",
        "_whole",
        "beside",
        "count",
        "head",
        "middle",
        "tail",
    )

    def __init__(
        self,
        line: bytes,
        start: int,
        end: int,
        *,
        count: Count | None,
        found: re.Match[bytes] | None,
        whole: bool,
    ) -> None:
        """The words are from `start` to `end`; `found` are the counts, and `whole` says that they are shown."""
        self.head = line[:start]
        self._start = start
        self._whole = whole
        self.count = count
        """The count that it was learnt with; None where frames carry none."""
        self.beside = 0
        """What the sum of all tokens is over the completion's."""
        if found is None:
            self.middle = b""
            self.tail = self._rest = line[end:] + _END
            return
        self.middle = line[end : found.end(1)]
        """From the end of the words to the counts."""
        self.tail = line[found.end() :] + _END
        """From the counts on; all that follows the words where there are none."""
        self.beside = int(found[2]) - int(found[3])
        self._rest = b"%d".join(each.replace(b"%", b"%%") for each in (self.middle, COMPLETION, self.tail))
        """All that follows the words, for the two counts to be put in."""
        self._usage_at = found.start() - end
        """Where that begins which is not shown."""
        self._after = self.middle[: self._usage_at] + b"}" + _END
        """What is shown in its place."""

    @classmethod
    def of(cls, line: bytes, answer: Answer, *, whole: bool) -> Likeness | None:
        """The likeness of a decoded `data: {...}` line; None for a frame that is not of the usual kind."""
        if len(answer.choices) != 1:
            return None
        choice = answer.choices[0]
        delta = choice.delta
        if delta is None or not delta.content or choice.index or choice.finish_reason is not None:
            return None
        if delta.tool_calls or delta.reasoning_content or choice.text or line.count(_CONTENT) != 1:
            return None
        start = line.index(_CONTENT) + len(_CONTENT)
        inside = _words_at(line, start)
        end = start if inside is None else inside.end()
        if line[end : end + 1] != b'"' or _text(line[start - 1 : end + 1]) != delta.content:
            return None
        if answer.usage is None:
            return cls(line, start, end, count=None, found=None, whole=whole)
        count, found = believed(answer.usage), _COUNTS.search(line, end)
        if count is None or count.reasoning or found is None:
            return None
        try:
            _one_value(line[found.start(1) : -1])
        except msgspec.MsgspecError:
            return None  # the usage is not the last member
        if int(found[3]) != count.completion or not 0 < count.completion <= int(found[2]) <= MOST_COUNTED:
            return None
        return cls(line, start, end, count=count, found=found, whole=whole)

    @property
    def around(self) -> int:
        """Bytes of a frame that are neither words nor counts, its blank line aside."""
        return len(self.head) + len(self.middle) + len(self.tail) - len(_END)

    def next(self, frame: bytes, running: int) -> bytes | None:
        """What is shown of a whole frame that is alike, with words for one token more than `running`; None of any other."""
        rest = self._rest
        if self.count is not None:
            rest %= (running + 1 + self.beside, running + 1)
        if not (frame.startswith(self.head) and frame.endswith(rest)):
            return None
        words = frame[self._start : -len(rest)]
        if not words or (words.translate(None, PLAIN) and not (_word(words) and _is_utf8(words))):
            return None
        if self._whole or self.count is None:
            return frame
        return frame[: self._usage_at - len(rest)] + _CLOSED

    def run(self, data: bytes, at: int) -> Run | None:
        """The frames from `at` up to the last one that is alike; None where one between them is not.

        All of them are cut by what stands between two frames' words, which proves that it stands there.
        """
        head, middle, tail = self.head, self.middle, self.tail
        if not data.startswith(head, at):
            return None
        end = data.rfind(middle or tail, at)
        if end >= 0 and middle:
            end = data.find(tail, end + len(middle))
        if end < 0:
            return None
        end += len(tail)
        between = tail + head
        # As if another frame began at the end: what stands between two words is everywhere the same.
        found = data[at:end] + head
        if self.count is None:
            words = _words_of(len(between))(found, self._start)
            if head + between.join(words) + between != found or not _are_utf8(words):
                return None
            number = len(words)
            return Run(end, number, data[at:end], number, number)
        each = _counted_words_of(len(middle), len(between))(found, self._start)
        words = [words for words, _, _ in each]
        parts = [b"", middle, b"", between] * len(words)
        parts[::4], parts[2::4] = words, [pair for _, pair, _ in each]
        if head + b"".join(parts) != found or not _are_utf8(words):
            return None
        completions = _numbers(b"[%b]" % b",".join([completion for _, _, completion in each]))
        shown = data[at:end]
        if not self._whole:
            shown = head + (self._after + head).join(words) + self._after
        return Run(end, len(words), shown, max(completions), completions[-1])


# What does not begin after this is no word: so nothing is looked through twice, whatever an upstream sends.
_BEGIN = rb"(?<=%b)(?!\")" % _CONTENT


@lru_cache(maxsize=256)
def _words_of(between: int) -> Callable[[bytes, int], list[bytes]]:
    """Finds words that so many bytes stand between. It jumps over these, which takes half the time of looking for them."""
    return re.compile(rb"%b(%b)(?s:.{%d})" % (_BEGIN, _WORD, between)).findall


@lru_cache(maxsize=256)
def _counted_words_of(middle: int, between: int) -> Callable[[bytes, int], list[tuple[bytes, bytes, bytes]]]:
    """Finds words, both counts after them, and the second one alone."""
    number = rb"[1-9]\d{0,6}"
    pair = rb"(%b%b(%b))" % (number, COMPLETION, number)
    return re.compile(rb"%b(%b)(?s:.{%d})%b(?s:.{%d})" % (_BEGIN, _WORD, middle, pair, between)).findall


def are_words(words: list[bytes]) -> bool:
    """Whether each of these is a string's inside as JSON writes it, and none is empty."""
    if not all(words):
        return False
    text = b"\n".join(words)
    if len(text.translate(None, PLAIN)) == len(words) - 1:
        return True
    return _word(b" ".join(words)) is not None and _is_utf8(text)


def _are_utf8(words: list[bytes]) -> bool:
    return _is_utf8(b"\n".join(words))


def _is_utf8(text: bytes) -> bool:
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError:
            return False
    return True
