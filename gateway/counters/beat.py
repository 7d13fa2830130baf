"""One heartbeat under way: the probe that says whether Redis is back, and back in time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Beat:
    """Told of its answer like any other command; a late answer is an answer too."""

    __slots__ = ("_missed", "_told", "overdue", "sent")

    def __init__(self, told: Callable[[Beat, Any], None], missed: Callable[[], None], sent: float) -> None:
        self._told = told
        self._missed = missed
        self.sent = sent
        """The loop's time when it left."""
        self.overdue = False

    def answered(self, reply: Any) -> None:
        """In time."""
        self._told(self, reply)

    def failed(self) -> None:
        """Not in time."""
        self.overdue = True
        self._missed()

    def late(self, reply: Any) -> None:
        """After all; None when the connection is gone."""
        self._told(self, reply)
