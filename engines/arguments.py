"""Arguments of a tool's call as the text of a JSON object, whatever a model wrote of them: it may have been cut off, or be no JSON.

What is no object becomes one with the text in it, under the name that Anthropic gives for that, so that no word is lost, a message
stays a message, and a conversation can go on.
"""

from __future__ import annotations

from typing import Any

import msgspec

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode


def as_object(arguments: str) -> str:
    """The text of an object."""
    if not arguments.strip():
        return "{}"
    try:
        _decode(arguments)
    except (msgspec.MsgspecError, RecursionError):
        return _encode({"INVALID_JSON": arguments}).decode()
    return arguments
