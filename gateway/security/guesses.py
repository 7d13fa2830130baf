"""Failed credentials, counted by where they come from: a guesser is soon told to wait, and nobody else notices.

What is asked too often is refused before anything is looked up, right or wrong alike, so the answer tells nothing; a
credential that was verified before is never asked about here. Memory is bounded whatever arrives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from gateway.errors import TooManyFailures

AT_ONCE = 60
"""Failures that one address may have in a row."""
A_MINUTE = 20
"""Failures that it may have a minute from then on."""
_ADDRESSES_AT_MOST = 10_000


@dataclass(slots=True)
class _Level:
    """How many failures one address still has to wait for."""

    failures: float
    at: float


class Guesses:
    """The failures of one worker; keys and tokens are counted apart, so that one cannot lock out the other."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._clock = clock
        self._levels: dict[tuple[str, bool], _Level] = {}

    def require_patience(self, place: str, *, token: bool) -> None:
        """Raise TooManyFailures where too many failed that came from there."""
        level = self._levels.get((place, token))
        if level is None:
            return
        over = self._left(level, self._clock()) + 1 - AT_ONCE
        if over > 0:
            raise TooManyFailures(retry_after_seconds=math.ceil(over * 60 / A_MINUTE))

    def failed(self, place: str, *, token: bool) -> None:
        """Count a failure."""
        now = self._clock()
        level = self._levels.get((place, token))
        if level is None:
            if len(self._levels) >= _ADDRESSES_AT_MOST:
                self._make_room(now)
            self._levels[(place, token)] = _Level(1.0, now)
            return
        # Many that fail at the same time were all let through: a minute is the longest that anybody waits for them.
        level.failures = min(self._left(level, now) + 1, AT_ONCE + A_MINUTE - 1)
        level.at = now

    def _left(self, level: _Level, now: float) -> float:
        return max(0.0, level.failures - (now - level.at) * A_MINUTE / 60)

    def _make_room(self, now: float) -> None:
        """Forget who has nothing to wait for; where all have, the half that was first seen longest ago."""
        for place in [each for each, level in self._levels.items() if self._left(level, now) <= 0]:
            del self._levels[place]
        if len(self._levels) >= _ADDRESSES_AT_MOST:
            for place in list(self._levels)[: _ADDRESSES_AT_MOST // 2]:
                del self._levels[place]
