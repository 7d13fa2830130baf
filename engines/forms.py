"""Answers of one upstream that come whole are alike: what they look like is learnt from those read event by event.

What an answer may differ in is its id, its time, its words and its counts; one that differs in more is read event by event,
so that nothing is taken for what it is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from engines.answer_json import decoded
from engines.likeness import COMPLETION, Likeness
from engines.messages import Count, WireUsage, believed, decode_answer
from engines.whole import (
    CLOSING,
    DONE,
    TOTAL,
    USAGE,
    Counted,
    Ends,
    Plain,
    Whole,
    closing_of,
)

_DATA = b"data: "
_CHOICES = b'"choices":['
_LESSONS = 8
"""How many answers in a row are learnt from: an upstream whose answers are never alike must not pay for each."""
_SELDOM = 1 << 10
"""After these one is learnt from in so many."""
_LONGEST = 1 << 11
"""Bytes between two events' words: what is longer is not looked for."""
_KEPT = 4
_COUNTS = re.compile(rb'(,"usage":\{"prompt_tokens":)(\d+),"total_tokens":(\d+),"completion_tokens":(\d+)')
_PROMPT = b'"prompt_tokens":'
# Reads past a value without making anything of it: a third of the cost of decoding it.
_skip = msgspec.json.Decoder(msgspec.Raw).decode


class _Told(msgspec.Struct, gc=False):
    """What a stem says, and where the usage of the last event is."""

    id: str | None = None
    created: int | None = None
    model: str | None = None
    usage: msgspec.Raw = msgspec.Raw()


class _Stopped(msgspec.Struct, gc=False):
    stop_reason: Any = None


class _Stops(msgspec.Struct, gc=False):
    """What stopped an answer, beside its reason."""

    choices: list[_Stopped] = []


_decode_told = msgspec.json.Decoder(_Told).decode
_decode_stops = msgspec.json.Decoder(_Stops).decode


def named(whole: Whole) -> tuple[str | None, str | None]:
    """An answer's id and model."""
    told = _decode_told(whole.stem[len(_DATA) :] + b"]}")
    return told.id, told.model


class Form(Protocol):
    """How the answers of an upstream look."""

    def read(self, data: bytes, limit: int, show_usage: bool, show_running: bool) -> Whole | None:
        """What a whole answer says; None of one that looks otherwise, or would pass the limit."""
        ...


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
        form = form_of(data)
        if form is None:
            return
        limit = max(came_to.words, came_to.count.completion)
        found = form.read(data, limit, show_usage, show_running)
        if found is None:
            return
        beside = {name: getattr(found, name) for name in ("stem", "texts", "sequence", "running")}
        if found == msgspec.structs.replace(came_to, **beside):
            self._known = [form, *self._known[: _KEPT - 1]]

    def adopt(self, others: Forms) -> None:
        """Take over what others learnt."""
        self._known = [*others._known, *self._known][:_KEPT]

    def due(self) -> bool:
        """Whether the next answer is to be learnt from; asked once for each that is like none before."""
        if self._lessons:
            self._lessons -= 1
            return True
        self._missed = (self._missed + 1) % _SELDOM
        return not self._missed


def form_of(data: bytes) -> Form | None:
    """The form of a whole answer that was found in order; None where it is not of the usual kind."""
    events = [each + b"\n\n" for each in data.split(b"\n\n")]
    if len(events) < 6 or events[-2:] != [DONE, b"\n\n"]:
        return None
    opening, first, last, closing = events[0], events[1], events[-4], events[-3]
    stem = opening[: opening.find(_CHOICES) + len(_CHOICES)]
    if len(stem) > _LONGEST:
        return None
    try:
        told = _decode_told(stem[len(_DATA) :] + b"]}")
        usage = bytes(_decode_told(closing[len(_DATA) :]).usage)
        answers = [decode_answer(each[len(_DATA) :]) for each in (opening, first, last, closing)]
        sequence = _decode_stops(last[len(_DATA) :]).choices[0].stop_reason
    except (msgspec.MsgspecError, UnicodeDecodeError, IndexError):
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
        like.head.startswith(stem) and last.startswith(head) and closing.startswith(stem + CLOSING + usage)
    ):
        return None
    after = closing[len(stem) + len(CLOSING) + len(usage) :] + DONE
    ends = Ends(
        stem=pattern,
        model=told.model,
        before=like.head[len(stem) :],
        bare=bare,
        finish_reason=end.finish_reason,
        sequence=sequence if type(sequence) is str else None,
        after=after,
        closing=closing_of(after),
    )
    at = len(head) if bare else last.find(b'"', len(head))
    if like.count is None:
        return Plain(ends, opening[len(stem) :], like.tail, last[at:])
    cut_opening, cut_last = (
        _DATA + without_usage(each[len(_DATA) : -2]) + b"\n\n" for each in (opening, last)
    )
    whole_opening, whole_last = _template(opening[len(stem) :]), _template(last[at:])
    if whole_opening is None or whole_last is None or first.count(USAGE) != 1:
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
    if found is None or event.count(USAGE) != 1:
        return None
    begin, end = (each.replace(b"%", b"%%") for each in (event[: found.end(1)], event[found.end() :]))
    return b"%b%%d%b%%d%b%%d%b" % (begin, TOTAL, COMPLETION, end)


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


def without_usage(payload: bytes) -> bytes:
    """The event without its usage: cut by bytes where usage is the last member, else decoded and written anew."""
    at = payload.rfind(USAGE)
    if at > 0:
        try:
            _skip(payload[at + len(USAGE) : -1])
        except msgspec.MsgspecError:
            pass
        else:
            return payload[:at] + b"}"
    value = decoded(msgspec.json.decode, payload)
    value.pop("usage", None)
    return msgspec.json.encode(value)
