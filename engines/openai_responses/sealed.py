"""What a reasoning item hands to its client sealed, and takes back: a provider's proof of a thought, or the thought itself.

The prefix says which of the two it is. Nothing here is secret: the provider made it, and it alone believes it.
"""

from __future__ import annotations

from engines.errors import Unsupported

_PROOF, _THOUGHT = "proof.", "sealed."


def closed(signature: str, redacted: str) -> str | None:
    """The item's `encrypted_content`; None where the provider gave nothing of the kind."""
    if redacted:
        return _THOUGHT + redacted
    return _PROOF + signature if signature else None


def opened(content: str, where: str) -> tuple[str, str]:
    """(signature, redacted) of an item that comes back; raises Unsupported for what was not made here."""
    if content.startswith(_PROOF):
        return content.removeprefix(_PROOF), ""
    if content.startswith(_THOUGHT):
        return "", content.removeprefix(_THOUGHT)
    if content:
        raise Unsupported(where, "it is not of this gateway")
    return "", ""
