"""Decode what an upstream sent: valid UTF-8 and JSON of the expected shape, or Garbled.

Half a character, as servers write it that cut texts between two UTF-16 units, is read as U+FFFD, and a count that is no number as
engines/odd_counts.py has it: the rest of an answer is not lost.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec

from engines.errors import Garbled
from engines.odd_counts import with_whole_counts, without_counts

T = TypeVar("T")
_ESCAPE = re.compile(
    rb"\\(?:(?P<whole>u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)


def decoded(decode: Callable[[bytes], T], body: bytes) -> T:
    """The value; raises Garbled for anything else."""
    try:
        if not body.isascii():
            body.decode()
        return decode(body)
    except (UnicodeDecodeError, msgspec.MsgspecError, RecursionError) as exc:
        return _read_again(decode, body, exc)


def _read_again(decode: Callable[[bytes], T], body: bytes, why: Exception) -> T:
    if not isinstance(why, UnicodeDecodeError):
        for mended in (_without_halves, with_whole_counts, without_counts):
            try:
                body = mended(body)
                return decode(body)
            except (msgspec.MsgspecError, RecursionError):
                continue
    raise Garbled("an answer is not JSON of the expected shape") from why


def _without_halves(body: bytes) -> bytes:
    return _ESCAPE.sub(lambda found: rb"\ufffd" if found["half"] else found[0], body)
