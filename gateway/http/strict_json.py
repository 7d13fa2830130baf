"""Decode a request body into one JSON object, refusing what two parsers could read in two ways.

Refused with BadRequest: anything but one UTF-8 JSON object, duplicate keys, lone surrogates, NUL, NaN, Infinity,
integers over 64 bits, more than 64 levels or 50,000 nodes. The gateway forwards the decoded object, never the raw
bytes, so what was checked is what is sent.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from gateway.errors import BadRequest

MAX_DEPTH = 64
MAX_NODES = 50_000
_INT_MAX, _INT_MIN = (1 << 63) - 1, -(1 << 63)
# Every string is consumed whole, so that an escaped quote never starts a match; the group is set for keys only.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"(\s*+:)?+', re.DOTALL)
# An even number of backslashes before the u is so many backslashes and no escape.
_NUL = re.compile(rb"(\\+)u0000")
_decode = msgspec.json.Decoder().decode


def decode_object(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`; raises BadRequest with code `invalid_json` or `duplicate_key`."""
    try:
        value = _decode(body)
    except UnicodeDecodeError as exc:
        raise BadRequest(
            "The body is not valid UTF-8; send JSON encoded as UTF-8.", code="invalid_json"
        ) from exc
    except RecursionError as exc:
        raise BadRequest(f"The body is nested deeper than {MAX_DEPTH} levels.", code="invalid_json") from exc
    except msgspec.MsgspecError as exc:
        raise BadRequest(f"The body is not valid JSON: {exc}.", code="invalid_json") from exc
    if type(value) is not dict:
        raise BadRequest("The body must be a JSON object.", code="invalid_json")
    if b"\\u0000" in body and any(len(found[1]) % 2 for found in _NUL.finditer(body)):
        raise BadRequest("The body contains the NUL character; remove it.", code="invalid_json")
    keys = _checked_keys(value)
    # Every key in the text is followed by a colon: with as many `":` as decoded keys nothing can be doubled. Dropping
    # the blanks first costs a third of looking for each kind of blank before a colon.
    plainly_single = keys == body.translate(None, b" \t\r\n").count(b'":')
    if not plainly_single and sum(1 for colon in _STRING.findall(body) if colon) != keys:
        raise BadRequest(f"The body has a key twice{_named(body)}; send each once.", code="duplicate_key")
    return value


def _checked_keys(root: dict[str, Any]) -> int:
    """Count the keys of all objects below `root` while checking depth, node count and integers."""
    keys = nodes = 0
    level: list[Any] = [root]
    for _ in range(MAX_DEPTH):
        deeper: list[Any] = []
        for container in level:
            nodes += len(container)
            if type(container) is dict:
                keys += len(container)
                container = container.values()
            for item in container:
                kind = type(item)
                if kind is str:
                    continue
                if kind is dict or kind is list:
                    deeper.append(item)
                elif kind is int and not _INT_MIN <= item <= _INT_MAX:
                    raise BadRequest("The body has an integer of more than 64 bits.", code="invalid_json")
        if nodes > MAX_NODES:
            raise BadRequest(f"The body has more than {MAX_NODES:,} values.", code="invalid_json")
        if not deeper:
            return keys
        level = deeper
    raise BadRequest(f"The body is nested deeper than {MAX_DEPTH} levels.", code="invalid_json")


def _named(body: bytes) -> str:
    """Name the doubled key where it is in the outermost object (a courtesy on the way to a refusal)."""

    class Doubled(Exception):
        pass

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: set[str] = set()
        for key, _ in items:
            if key in seen:
                raise Doubled(key)
            seen.add(key)
        return {}

    try:
        json.loads(body, object_pairs_hook=pairs)
    except Doubled as exc:
        return f" ({str(exc)[:64]!r})"
    except ValueError:
        pass
    return ""
