"""Counts that an upstream tells in another dress than a number's, put into it: "12" and 12.0 are 12.

Looked for only in what could not be read as it stands, so that nobody loses an answer for its usage. One that says nothing (true,
1.5, "many") makes all of its usage one that was not told: half of a sum is none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, cast

import msgspec

_OF_COUNTS = frozenset({"usage", "usageMetadata", "billed_units"})
"""Objects of counts."""
_AROUND = frozenset({"message", "delta", "response", "meta"})
"""Objects that one of them may be in."""
_NAMES = ("tokens", "Tokens", "TokenCount")
"""How a count's name ends."""
_HUGE = 1 << 53
"""Stands for all that is more: no context holds so many, so it is not believed."""
_whole = re.compile(r"(-?)([0-9]+)(?:\.0*)?").fullmatch
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class _SaysNothing(Exception):
    """A count is none."""


def with_whole_counts(body: bytes) -> bytes:
    """The object with its counts as whole numbers; raises msgspec.MsgspecError for what is no object."""
    return _with_counts(body, _read)


def without_counts(body: bytes) -> bytes:
    """The object as if it told no counts; raises msgspec.MsgspecError for what is no object."""
    return _with_counts(body, _not_told)


def _with_counts(body: bytes, read: Callable[[str, bytes], bytes]) -> bytes:
    members = _members(body)
    for name, value in members.items():
        if name in _AROUND and bytes(value)[:1] == b"{":
            members[name] = msgspec.Raw(_encode(_members_read(_members(bytes(value)), read)))
    return _encode(_members_read(members, read))


def _members_read(
    members: dict[str, msgspec.Raw], read: Callable[[str, bytes], bytes]
) -> dict[str, msgspec.Raw]:
    return {
        name: msgspec.Raw(read(name, bytes(value))) if name in _OF_COUNTS or name.endswith(_NAMES) else value
        for name, value in members.items()
    }


def _not_told(name: str, value: bytes) -> bytes:
    del value
    return b"{}" if name in _OF_COUNTS else b"null"


def _read(name: str, value: bytes) -> bytes:
    try:
        told = json.loads(value, parse_int=_number)
        if name not in _OF_COUNTS:
            return _encode(_count(told))
        if type(told) is dict:
            return _encode(_counts(cast("dict[str, Any]", told)))
    except (_SaysNothing, ValueError, RecursionError):
        pass
    return _not_told(name, value)


def _counts(told: dict[str, Any]) -> dict[str, Any]:
    read: dict[str, Any] = {}
    for name, value in told.items():
        if type(value) is dict:
            read[name] = _counts(cast("dict[str, Any]", value))
        elif not name.endswith(_NAMES):
            read[name] = value
        elif value is not None:
            # A null is a count that is left out.
            read[name] = _count(value)
    return read


def _count(value: Any) -> int:
    if type(value) is str and (found := _whole(value)) is not None:
        return _number(found[1] + found[2])
    if type(value) is float and (value.is_integer() or abs(value) > _HUGE):
        return int(max(-_HUGE, min(_HUGE, value)))
    if type(value) is not int:
        raise _SaysNothing
    return max(-_HUGE, min(_HUGE, value))


def _number(digits: str) -> int:
    """A whole number; one of more digits than any count has is not read for it."""
    if len(digits) > 18:
        return -_HUGE if digits.startswith("-") else _HUGE
    return int(digits)
