"""Turns of conversations that are kept for the calls that follow: what a turn is, and the port to where they are.

A turn belongs to one principal at one endpoint, and no other finds it. Keeping one never holds up the call that made it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose turns, and which of them: those of an endpoint that are no older than it keeps them."""

    principal_id: str
    endpoint_id: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One call of a conversation: what it added, and what was answered."""

    id: str
    """The response's."""
    previous: str | None
    """The response that it follows."""
    principal_id: str
    endpoint_id: str
    at_ms: int
    asked: list[Any]
    """Its own input, as items."""
    response: dict[str, Any]
    """What its client got, whole."""


class Turns(Protocol):
    """Where turns are kept."""

    def keep(self, turn: Turn) -> None:
        """Keep a turn; returns at once, and what follows it finds it."""
        ...

    async def conversation(self, owner: Owner, turn_id: str) -> list[Turn]:
        """The turns up to that one, the first one first; raises NotFound where one is missing, or Unavailable."""
        ...

    async def turn(self, principal_id: str, turn_id: str) -> Turn:
        """One turn, whichever endpoint's; raises NotFound or Unavailable."""
        ...

    async def forget(self, principal_id: str, turn_id: str) -> None:
        """Delete one turn; raises NotFound or Unavailable."""
        ...


@dataclass(frozen=True, slots=True)
class Begun:
    """A call whose answer will be kept, or that follows one that was."""

    previous: str | None
    asked: list[Any]
    kept: bool
