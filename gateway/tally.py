"""What the calls of one endpoint came to since its metrics were last handed over: plain numbers, one look-up a call."""

from __future__ import annotations

from collections import defaultdict


class Tally:
    """Of one endpoint."""

    __slots__ = (
        "completion_tokens",
        "cost_nano_usd",
        "doubts",
        "durations_ns",
        "ended",
        "firsts_ns",
        "prompt_tokens",
        "unpriced",
    )

    def __init__(self) -> None:
        self.ended: defaultdict[tuple[str, str], int] = defaultdict(int)
        """By API and status."""
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.cost_nano_usd = 0
        self.unpriced = 0
        """Calls with tokens on a priced entity that cost nothing."""
        self.doubts: defaultdict[str, int] = defaultdict(int)
        self.durations_ns: list[int] = []
        self.firsts_ns: list[int] = []
