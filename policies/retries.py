"""Whether a call that failed before its first byte is tried again at the same place, and after how long.

Retries add at most a fifth to what calls ask of an entity: a budget that calls fill and retries empty.
"""

from __future__ import annotations

from dataclasses import dataclass

BASE_MS = 100
LONGEST_MS = 2_000
PATIENCE_MS = 5_000
"""The longest pause that an upstream may ask for and still be waited for by a call."""
_PER_CALL = 0.2
_MOST = 10.0


@dataclass(slots=True)
class RetryBudget:
    """What retries an entity may still get; a worker's own."""

    tokens: float = _MOST

    def called(self) -> None:
        """A call began."""
        self.tokens = min(_MOST, self.tokens + _PER_CALL)

    def take(self) -> bool:
        """Take one retry, if there is one."""
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


def pause_ms(retry: int, draw: float, retry_after_ms: int, left_ms: int | None) -> int | None:
    """How long to wait before the `retry`th further try, or None where none should be made.

    `draw` is uniform in [0, 1) (full jitter); `left_ms` is what the caller's deadline leaves, None without one.
    """
    pause = int(draw * min(LONGEST_MS, BASE_MS << min(retry - 1, 10)))
    if retry_after_ms > PATIENCE_MS:
        return None
    pause += retry_after_ms
    if left_ms is not None and pause >= left_ms:
        return None
    return pause
