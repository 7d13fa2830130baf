"""How a receiver knows that an event came from here, and not long ago.

`weighbridge-signature: t=<Unix seconds>,v1=<hex>` where v1 is HMAC-SHA-256 under the webhook's secret of `<t>.<body>`:
the time is under the signature, so an old event cannot be sent again as a new one.
"""

from __future__ import annotations

import hmac

HEADER = "weighbridge-signature"
LEAST_SECRET_BYTES = 32
TOLERANCE_SECONDS = 300


def signed(secret: bytes, body: bytes, at: int) -> str:
    """The header's value for a body sent at `at` (Unix seconds)."""
    return f"t={at},v1={_digest(secret, body, at)}"


def verifies(secret: bytes, body: bytes, header: str, now: int, tolerance: int = TOLERANCE_SECONDS) -> bool:
    """Whether a header is ours for this body, and at most so old; what a receiver does."""
    pairs = (each.partition("=") for each in header.split(","))
    parts = {name: value for name, _, value in pairs}
    at = parts.get("t", "")
    if not at.isdecimal() or abs(now - int(at)) > tolerance:
        return False
    return hmac.compare_digest(parts.get("v1", ""), _digest(secret, body, int(at)))


def _digest(secret: bytes, body: bytes, at: int) -> str:
    return hmac.digest(secret, b"%d." % at + body, "sha256").hex()
