"""Named points of the line where a test may kill the process; a no-op unless armed at start.

Armed by WEIGHBRIDGE_CRASH_AT=point[:nth]: the nth time the point is reached the process is killed
with SIGKILL, as a power cut or the kernel's out-of-memory killer would.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

POINTS = (
    "before_intent",
    "after_intent",
    "before_first_byte",
    "mid_stream",
    "after_last_byte",
    "after_settle",
    "drain_before_commit",
    "drain_after_commit",
)


def armed(spec: str | None) -> Callable[[str], object]:
    """The function to call at each point; raises ValueError for a point that does not exist."""
    if not spec:
        # Nothing is armed: a function of C does nothing for less than one of Python, and four are called in every call.
        return len
    name, _, nth = spec.partition(":")
    if name not in POINTS:
        raise ValueError(f"WEIGHBRIDGE_CRASH_AT names {name!r}; the points are {', '.join(POINTS)}")
    left = int(nth or 1)

    def reach(point: str) -> None:
        nonlocal left
        if point == name:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return reach


reach = armed(os.environ.get("WEIGHBRIDGE_CRASH_AT"))
