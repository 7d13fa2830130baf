"""How a conversation begins: what keeps its calls together, on one side of a split and on one replica.

Conversations of one application begin alike: a system prompt that is worth keeping together is told beside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, cast

_OPENERS = frozenset({"system", "developer"})
_LONGEST = 2_048
"""Characters of each text that are looked at: enough to tell conversations apart, whatever they carry."""
_PARTS = 8
_WORTH_SHARING = 512
"""Characters of a system prompt from which on it saves work to have it where it was read before."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """What an engine that has seen a call's beginning need not read again."""

    conversation: bytes
    shared: bytes | None = None
    """The system prompt, where it is long; others' conversations may begin with it."""
    shared_tokens: int = 0
    """About how many tokens it has."""


def prefix(body: Mapping[str, Any], apart: bytes) -> Prefix:
    """The prefix of a call; `apart` tells those who must not share what an engine keeps."""
    opening = _system(body)
    length = sum(map(len, opening))
    conversation = blake2b(beginning(body) + apart, digest_size=16).digest()
    if length < _WORTH_SHARING:
        return Prefix(conversation)
    digest = blake2b(apart, digest_size=16)
    for text in opening:
        digest.update(text[:_LONGEST].encode(errors="replace"))
    return Prefix(conversation, digest.digest(), length // 4)


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


def _system(body: Mapping[str, Any]) -> list[str]:
    """The texts before the first turn."""
    texts = [*_texts(body.get("system")), *_texts(body.get("instructions"))]
    messages: Any = body.get("messages")
    if messages is None and _is_items(body.get("input")):
        messages = body["input"]
    if isinstance(messages, list):
        for message in messages[:_PARTS]:  # pyright: ignore[reportUnknownVariableType]
            told = cast("dict[str, Any]", message) if isinstance(message, dict) else {}
            if told.get("role") not in _OPENERS:
                break
            texts += _texts(told.get("content"))
    return texts


def _texts(content: Any) -> list[str]:
    """A content's text, whether it is one or comes in parts."""
    if isinstance(content, str):
        return [content]
    if isinstance(content, list):
        parts = cast("list[Any]", content)[:_PARTS]
        found = [cast("dict[str, Any]", part).get("text") for part in parts if isinstance(part, dict)]
        return [text for text in found if isinstance(text, str)]
    return []


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
