"""Answers of one upstream that come whole are alike: one is read by comparing it with what the last ones looked like.

A form is learnt from an answer that was read event by event. What an answer may differ in is its id, its time, its words
and its counts; one that differs in more is read event by event, so that nothing is taken for what it is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import msgspec

from engines.likeness import COMPLETION, MOST_COUNTED, Likeness, are_words
from engines.messages import Count, WireUsage, believed, decode_answer

_DATA = b"data: "
_DONE = b"data: [DONE]\n\n"
_CHOICES = b'"choices":['
_USAGE = b',"usage":'
_CLOSING = b"]" + _USAGE
_NEAR = 1 << 10
"""The usage is looked for in so much of an answer's end."""
_LESSONS = 8
"""How many answers in a row are learnt from: an upstream whose answers are never alike must not pay for each."""
_SELDOM = 1 << 10
"""After these one is learnt from in so many."""
_LONGEST = 1 << 11
"""Bytes between two events' words: what is longer is not looked for."""
_KEPT = 4
_MOST = 4_096
"""Numbers that are kept as they are written; no answer that comes in one piece has so many words."""
_COUNTS = re.compile(rb'(,"usage":\{"prompt_tokens":)(\d+),"total_tokens":(\d+),"completion_tokens":(\d+)')
_three_counts = re.compile(
    rb'\{"prompt_tokens":(0|[1-9]\d{0,6}),"total_tokens":(?:0|[1-9]\d{0,6}),"completion_tokens":(0|[1-9]\d{0,6})\}'
).fullmatch
"""A usage of the most usual kind, whose counts are believed."""
_PROMPT = b'"prompt_tokens":'
_TOTAL = b',"total_tokens":'
_decode_usage = msgspec.json.Decoder(WireUsage).decode
# Reads past a value without making anything of it: a third of the cost of decoding it.
_skip = msgspec.json.Decoder(msgspec.Raw).decode


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


class _Told(msgspec.Struct, gc=False):
    """What a stem says, and where the usage of the last event is."""

    id: str | None = None
    created: int | None = None
    model: str | None = None
    usage: msgspec.Raw = msgspec.Raw()


_decode_told = msgspec.json.Decoder(_Told).decode


_Cut = Callable[[bytes | memoryview], list[bytes]]


class Form(Protocol):
    """How the answers of an upstream look."""

    def read(self, data: bytes, limit: int, show_usage: bool, show_running: bool) -> Whole | None:
        """What a whole answer says; None of one that looks otherwise, or would pass the limit."""
        ...


class _Ends(msgspec.Struct, frozen=True, gc=False):
    """What both kinds of forms have in common: how all events begin, and how an answer ends."""

    stem: Callable[[bytes], re.Match[bytes] | None]
    """Finds what all events begin with, up to their choices."""
    model: str | None
    before: bytes
    """From the stem to the words."""
    bare: bool
    """The last event of the answer has no words."""
    finish_reason: str | None
    after: bytes
    """From the usage on."""

    def usage(self, data: bytes, stem: bytes) -> tuple[int, Count] | None:
        """Where the event of the usage begins, and what it says."""
        after = self.after
        if not data.endswith(after):
            return None
        at = data.rfind(_CLOSING, -len(after) - _NEAR)
        begins = at - len(stem)
        if begins < 0 or not data.startswith(stem, begins):
            return None
        simple = _three_counts(data, at + len(_CLOSING), len(data) - len(after))
        if simple is not None:
            return begins, Count(int(simple[1]), int(simple[2]))
        told = data[at + len(_CLOSING) : -len(after)]
        if not told.isascii() or b"\n" in told or b"\r" in told:
            return None
        try:
            count = believed(_decode_usage(told))
        except msgspec.MsgspecError:
            return None
        return None if count is None else (begins, count)


class Plain:
    """Of answers that tell their usage at the end alone."""

    __slots__ = ("_closing", "_ends", "_opening", "_tail")

    def __init__(self, ends: _Ends, opening: bytes, tail: bytes, closing: bytes) -> None:
        self._ends = ends
        self._opening = opening
        """The event before the words, after the stem."""
        self._tail = tail
        """From the words to the next event."""
        self._closing = closing
        """The same of the last event; all after its stem where it has no words."""

    def read(self, data: bytes, limit: int, show_usage: bool, show_running: bool) -> Whole | None:
        ends = self._ends
        found = ends.stem(data)
        if found is None:
            return None
        stem = found[0]
        told = ends.usage(data, stem)
        if told is None:
            return None
        until, count = told
        head = stem + ends.before
        between = self._tail + head
        opening = self._opening + head
        start = len(stem) + len(opening)
        closing = self._tail + stem + self._closing if ends.bare else self._closing
        end = until - len(closing)
        if end <= start or not data.startswith(opening, len(stem)) or not data.startswith(closing, end):
            return None
        words = _cut(memoryview(data)[start:end], len(between))
        joined = between.join(words)
        if len(joined) != end - start or not data.startswith(joined, start):
            return None
        if not (1 if ends.bare else 2) <= len(words) <= limit or not are_words(words):
            return None
        around = len(between) - 2
        shown = data if show_usage else b"".join((memoryview(data)[:until], _DONE))
        return Whole(shown, len(words), count, ends.finish_reason, ends.model, around)


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
        ends: _Ends,
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
        self._cut = middle[: middle.rindex(_USAGE)] + b"}\n\n"
        """What follows the words where the counts are not shown."""
        self._tail = tail
        """From the counts to the next event."""
        self._counts: list[bytes] = []
        """All that there is of each number of tokens from its name on."""

    def read(self, data: bytes, limit: int, show_usage: bool, show_running: bool) -> Whole | None:
        ends, tail = self._ends, self._tail
        found = ends.stem(data)
        if found is None:
            return None
        stem = found[0]
        told = ends.usage(data, stem)
        if told is None:
            return None
        until, count = told
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
        middle = b"%b%d%b" % (self._middle, prompt, _TOTAL)
        region = data[start:end]
        words = _cut_counted(len(middle), len(tail) + len(head))(region + head if ends.bare else region)
        if ends.bare:
            words.pop()
        number = len(words)
        if not (1 if ends.bare else 2) <= number <= _MOST or max(number, completion) > limit:
            return None
        parts = [b"", middle, b"", b"", head] * number
        parts[::5], parts[2::5], parts[3::5] = words, _sums(prompt, number), self._counted(number)
        if b"".join(parts[: -1 if ends.bare else -4]) != region or not are_words(words):
            return None
        around = len(head) + len(middle) + len(tail) - 2
        if show_running:
            shown = data if show_usage else b"".join((memoryview(data)[:until], _DONE))
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
                    data[until:] if show_usage else _DONE,
                )
            )
        return Whole(shown, number, count, ends.finish_reason, ends.model, around)

    def _counted(self, number: int) -> list[bytes]:
        """What tells 1, 2, ... tokens, up to the next event."""
        counts = self._counts
        while len(counts) < number:
            counts.append(b"%b%d%b" % (COMPLETION, len(counts) + 1, self._tail))
        return counts[:number]


class Forms:
    """What answers of one upstream looked like."""

    __slots__ = ("_known", "_lessons", "_missed")

    def __init__(self) -> None:
        self._known: list[Form] = []
        self._lessons = _LESSONS
        self._missed = 0

    def read(self, data: bytes, limit: int, show_usage: bool, show_running: bool) -> Whole | None:
        """What a whole answer says; None of one that is like none before, or would pass the limit."""
        for form in self._known:
            found = form.read(data, limit, show_usage, show_running)
            if found is not None:
                self._lessons = _LESSONS
                return found
        return None

    def learn(self, data: bytes, came_to: Whole, show_usage: bool, show_running: bool) -> None:
        """Learn from a whole answer what others may look like, if it reads the same by that."""
        if self._lessons:
            self._lessons -= 1
        else:
            self._missed = (self._missed + 1) % _SELDOM
            if self._missed:
                return
        form = form_of(data)
        if form is None:
            return
        limit = max(came_to.words, came_to.count.completion)
        if form.read(data, limit, show_usage, show_running) == came_to:
            self._known = [form, *self._known[: _KEPT - 1]]


def form_of(data: bytes) -> Form | None:
    """The form of a whole answer that was found in order; None where it is not of the usual kind."""
    events = [each + b"\n\n" for each in data.split(b"\n\n")]
    if len(events) < 6 or events[-2:] != [_DONE, b"\n\n"]:
        return None
    opening, first, last, closing = events[0], events[1], events[-4], events[-3]
    stem = opening[: opening.find(_CHOICES) + len(_CHOICES)]
    if len(stem) > _LONGEST:
        return None
    try:
        told = _decode_told(stem[len(_DATA) :] + b"]}")
        usage = bytes(_decode_told(closing[len(_DATA) :]).usage)
        answers = [decode_answer(each[len(_DATA) :]) for each in (opening, first, last, closing)]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    like, pattern = Likeness.of(first[:-2], answers[1], whole=False), _pattern(stem, told)
    if like is None or len(like.head) + len(like.middle) + len(like.tail) > _LONGEST:
        return None
    if pattern is None or not usage or answers[-1].choices or len(answers[2].choices) != 1:
        return None
    end = answers[2].choices[0]
    bare = not end.has_content()
    head = stem if bare else like.head
    if not (
        like.head.startswith(stem) and last.startswith(head) and closing.startswith(stem + _CLOSING + usage)
    ):
        return None
    ends = _Ends(
        stem=pattern,
        model=told.model,
        before=like.head[len(stem) :],
        bare=bare,
        finish_reason=end.finish_reason,
        after=closing[len(stem) + len(_CLOSING) + len(usage) :] + _DONE,
    )
    at = len(head) if bare else last.find(b'"', len(head))
    if like.count is None:
        return Plain(ends, opening[len(stem) :], like.tail, last[at:])
    cut_opening, cut_last = (
        _DATA + without_usage(each[len(_DATA) : -2]) + b"\n\n" for each in (opening, last)
    )
    whole_opening, whole_last = _template(opening[len(stem) :]), _template(last[at:])
    if whole_opening is None or whole_last is None or first.count(_USAGE) != 1:
        return None
    if not all(_counts_alone(each.usage) for each in answers[:-1]):
        return None
    if not cut_opening.startswith(stem) or not cut_last.startswith(last[:at]):
        return None
    middle = like.middle[: like.middle.rindex(_PROMPT) + len(_PROMPT)]
    return Counted(
        ends, (whole_opening, cut_opening[len(stem) :]), middle, like.tail, (whole_last, cut_last[at:])
    )


def _counts_alone(usage: WireUsage | None) -> bool:
    """Whether nothing beside the three counts says more of them, which may not be true of others."""
    count = believed(usage)
    return count is not None and count == Count(count.prompt, count.completion)


def _template(event: bytes) -> bytes | None:
    """An event for its three counts to be put in; None where it has none, or more."""
    found = _COUNTS.search(event)
    if found is None or event.count(_USAGE) != 1:
        return None
    begin, end = (each.replace(b"%", b"%%") for each in (event[: found.end(1)], event[found.end() :]))
    return b"%b%%d%b%%d%b%%d%b" % (begin, _TOTAL, COMPLETION, end)


def _pattern(stem: bytes, told: _Told) -> Callable[[bytes], re.Match[bytes] | None] | None:
    """Finds a stem of any other id and time; None where it is not clear where these are."""
    found = re.escape(stem)
    for value, name, any_other in (
        (told.id, b'"id":"%b"', rb'"id":"[ !#-\[\]-~]++"'),
        (told.created, b'"created":%b', rb'"created":[1-9]\d{0,14}+'),
    ):
        if value is None:
            continue
        written = re.escape(name % str(value).encode())
        if found.count(written) != 1:
            return None
        found = found.replace(written, any_other)
    return re.compile(found).match


def _cut(data: memoryview, between: int) -> list[bytes]:
    """The words that so many bytes stand between, from a quote on: it jumps over these."""
    four, one = _cutters(between)
    words = four(data)
    words[-1:] = one(words[-1])
    return words


@lru_cache(maxsize=256)
def _cutters(between: int) -> tuple[_Cut, _Cut]:
    """What cuts at four places at once, and what cuts at each."""
    one = rb'".{%d}' % (between - 1)
    return re.compile(b"(?s)" + rb'([^"]++)'.join([one] * 4)).split, re.compile(b"(?s)" + one).split


@lru_cache(maxsize=256)
def _cut_counted(middle: int, between: int) -> Callable[[bytes], list[bytes]]:
    """The same where two counts are among them."""
    return re.compile(rb'(?s)".{%d}\d++.{%d}\d++.{%d}' % (middle - 1, len(COMPLETION), between)).split


def _sums(prompt: int, number: int) -> list[bytes]:
    """The counts of all tokens with 1, 2, ... of output."""
    if prompt + number <= _MOST:
        return _numbers()[prompt + 1 : prompt + 1 + number]
    return [b"%d" % each for each in range(prompt + 1, prompt + 1 + number)]


@lru_cache(maxsize=1)
def _numbers() -> list[bytes]:
    return [b"%d" % each for each in range(_MOST + 1)]


def without_usage(payload: bytes) -> bytes:
    """The event without its usage: cut by bytes where usage is the last member, else decoded and written anew."""
    at = payload.rfind(_USAGE)
    if at > 0:
        try:
            _skip(payload[at + len(_USAGE) : -1])
        except msgspec.MsgspecError:
            pass
        else:
            return payload[:at] + b"}"
    value = msgspec.json.decode(payload)
    value.pop("usage", None)
    return msgspec.json.encode(value)
