"""Places of an entity that has fewer of them than there are workers: one by one, from whoever counts for all of these.

Only such an entity's calls ask. Where nobody can be asked each worker has one place, as it would without.
"""

from __future__ import annotations

from typing import Protocol


class SeatsAway(Exception):
    """Nobody counts at this moment."""


class Seats(Protocol):
    """Who counts."""

    async def take(self, entity_id: str, places: int) -> bytes | None:
        """A place of so many, by the name that it is given back by; None where all are taken. Raises SeatsAway."""
        ...

    def give_back(self, seat: bytes) -> None:
        """The place is free; behind the call, which waits for nothing."""
        ...


class NoSeats:
    """Nobody counts: there is but one worker, or none hears another."""

    async def take(self, entity_id: str, places: int) -> bytes | None:
        raise SeatsAway

    def give_back(self, seat: bytes) -> None:
        return
