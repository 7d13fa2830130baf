"""What a reasoning item hands to its client sealed, and takes back: a provider's proof of a thought, or the thought itself.

The prefix says which of the two it is. Nothing here is secret: the provider made it, and it alone believes it.
"""

from __future__ import annotations

from typing import Any

_PROOF, _THOUGHT = "proof.", "sealed."


def closed(signature: str, redacted: str) -> str | None:
    """The item's `encrypted_content`; None where the provider gave nothing of the kind."""
    if redacted:
        return _THOUGHT + redacted
    return _PROOF + signature if signature else None


def opened(content: str) -> tuple[str, str]:
    """(signature, redacted) of an item that comes back; nothing of what another's provider sealed, which none else takes."""
    if content.startswith(_PROOF):
        return content.removeprefix(_PROOF), ""
    if content.startswith(_THOUGHT):
        return "", content.removeprefix(_THOUGHT)
    return "", ""


def is_ours(content: Any) -> bool:
    """Whether it was sealed here, so that no provider of this dialect made it."""
    return type(content) is str and content.startswith((_PROOF, _THOUGHT))
