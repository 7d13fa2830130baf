"""How a conversation begins: what keeps its calls together, on one side of a split and on one replica."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

_OPENERS = frozenset({"system", "developer"})
_PROMPT = 2_048


def beginning(body: Mapping[str, Any]) -> bytes:
    """A digest of the system prompt and the first turn, the same for every later call of the conversation."""
    messages = body.get("messages")
    opening: list[Any] = [body.get("system"), body.get("instructions")]
    if isinstance(messages, list):
        for message in messages:  # pyright: ignore[reportUnknownVariableType]
            opening.append(message)
            if not (isinstance(message, dict) and message.get("role") in _OPENERS):  # pyright: ignore[reportUnknownMemberType]
                break
    else:
        opening.append(str(body.get("prompt", body.get("input", "")))[:_PROMPT])
    return blake2b(json.dumps(opening, default=str).encode(), digest_size=16).digest()
