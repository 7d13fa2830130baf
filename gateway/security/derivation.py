"""Keys derived from keys: HKDF with SHA-256 (RFC 5869), of one block.

Of the standard library's HMAC: every process derives keys at its start, and few need the library that can do more.
"""

from __future__ import annotations

import hashlib
import hmac


def derived(key: bytes, salt: bytes, purpose: bytes) -> bytes:
    """32 bytes for one purpose, of which neither the key nor those for another purpose can be told."""
    extracted = hmac.digest(salt, key, hashlib.sha256)
    return hmac.digest(extracted, purpose + b"\x01", hashlib.sha256)
