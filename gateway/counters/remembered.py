"""A bounded memory that loses one thing at a time: of what is old, what nobody asked for since it was last its turn.

Full, it never forgets what is in use to make room for what is asked for once, and never forgets much at a time.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar


class Kept:
    """What can be remembered: it knows whether it was asked for."""

    __slots__ = ("asked",)

    def __init__(self) -> None:
        self.asked = False


K = TypeVar("K")
V = TypeVar("V", bound=Kept)


class Remembered(Generic[K, V]):
    """Second chance: who was asked for since goes round once more."""

    __slots__ = ("_held", "_most", "_order")

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[K, V] = {}
        self._order: deque[K] = deque()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: K) -> V | None:
        """What is remembered."""
        found = self._held.get(key)
        if found is not None:
            found.asked = True
        return found

    def put(self, key: K, value: V) -> None:
        """Remember it; where that is too much, something else goes."""
        if key not in self._held:
            if len(self._held) >= self._most:
                self._forget_one()
            self._order.append(key)
        self._held[key] = value

    def clear(self) -> None:
        """Forget all."""
        self._held.clear()
        self._order.clear()

    def _forget_one(self) -> None:
        held, order = self._held, self._order
        while (eldest := held[order[0]]).asked:
            eldest.asked = False
            order.rotate(-1)
        del held[order.popleft()]
