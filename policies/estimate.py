"""How many tokens a request is taken to need before anyone has counted them.

No tokenizer: an estimate that is a function of the bytes alone is fast, and the same on every worker.
"""

from __future__ import annotations

STREAM_SLICE = 256
"""Output tokens that a stream reserves at first and tops up by."""
LEAST_STREAM = 32
"""A stream may start with what a limit has left, if that is at least this many output tokens."""
MESSAGE_TOKENS = 8
"""What a message costs besides its text: role and separators."""


def prompt_estimate(text_bytes: int, messages: int, estimate_milli: int) -> int:
    """Estimated prompt tokens: ceil(bytes x rate) and 8 for each message."""
    return -(-text_bytes * estimate_milli // 1000) + MESSAGE_TOKENS * messages


def allowance(
    *, stream: bool, max_tokens: int | None, default_max_tokens: int, n: int = 1
) -> tuple[int, int]:
    """Output tokens to ask for, and the least with which the request may start; both times `n`.

    A stream takes a slice and tops up. A plain call cannot be cut, so it reserves all that it may produce.
    """
    if stream:
        asked = STREAM_SLICE if max_tokens is None else min(max_tokens, STREAM_SLICE)
        return asked * n, min(asked, LEAST_STREAM) * n
    asked = default_max_tokens if max_tokens is None else max_tokens
    return asked * n, asked * n
