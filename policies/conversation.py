"""How a conversation begins: what keeps its calls together, on one side of a split and on one replica."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, cast

_OPENERS = frozenset({"system", "developer"})
_LONGEST = 2_048
"""Characters of each text that are looked at: enough to tell conversations apart, whatever they carry."""
_PARTS = 8


def beginning(body: Mapping[str, Any]) -> bytes:
    """A digest of the system prompt and the first turn, the same for every later call of the conversation."""
    opening = [_short(body.get("system")), _short(body.get("instructions"))]
    messages: Any = body.get("messages")
    if messages is None and _is_items(body.get("input")):
        messages = body["input"]
    if isinstance(messages, list):
        for message in messages[:_PARTS]:  # pyright: ignore[reportUnknownVariableType]
            if not isinstance(message, dict):
                break
            told = cast("dict[str, Any]", message)
            opening += (told.get("role"), _short(told.get("content")))
            if told.get("role") not in _OPENERS:
                break
    else:
        opening.append(_short(body.get("prompt", body.get("input"))))
    return blake2b(json.dumps(opening, default=repr).encode(), digest_size=16).digest()


def _is_items(given: Any) -> bool:
    """Whether it is a conversation, as Responses have it, and not texts to embed."""
    return isinstance(given, list) and bool(given) and isinstance(given[0], dict)  # pyright: ignore[reportUnknownArgumentType]


def _short(content: Any) -> Any:
    """The beginning of a text, or of each part of a content that has several."""
    if isinstance(content, str):
        return content[:_LONGEST]
    if isinstance(content, dict):
        parts = cast("dict[str, Any]", content)
        return {name: _short(parts[name]) for name in sorted(parts)[:_PARTS]}
    if isinstance(content, list):
        return [_short(each) for each in cast("list[Any]", content)[:_PARTS]]
    return content
