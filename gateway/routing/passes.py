"""What a call asks of the gate to the local engine, and the slot that it got: by which right, and told to the engine how.

A slot ends exactly once, however the call does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from policies.throughput import Lane, Provision, Throughput

_PRIORITY = {Lane.COVERED: 0, Lane.AWAITED: 0, Lane.LENT: 1}
_BATCH = 2
"""The engine takes the lowest number first."""


class Ended(Protocol):
    """Whoever gave the slot."""

    def measured(self, *, late: bool) -> None:
        """The first token of a call with a target came."""
        ...

    def left(self, had: Pass, ask: Ask, tokens: int, began_ms: int) -> None:
        """The slot is free again."""
        ...


@dataclass(frozen=True, slots=True)
class Ask:
    """A call that wants to go to the engine."""

    throughput: Throughput
    provisions: tuple[Provision, ...]
    """Those that may cover it, in order."""
    who: str
    tokens: int
    """What it is thought to take."""
    batch: bool
    replicas: int
    """How many are up."""


class Pass:
    """A slot of the engine that one call has; ended exactly once."""

    __slots__ = ("_ask", "_began_ms", "_gate", "_open", "lane", "provision")

    def __init__(self, gate: Ended, ask: Ask, lane: Lane, provision: Provision | None, began_ms: int) -> None:
        self._gate = gate
        self._ask = ask
        self.lane = lane
        self.provision = provision
        """What covers it; for a lent slot, what would have if it were not used up."""
        self._began_ms = began_ms
        self._open = True

    @property
    def priority(self) -> int:
        """What the engine is told."""
        return _BATCH if self.lane is Lane.LENT and self._ask.batch else _PRIORITY[self.lane]

    @property
    def timed(self) -> bool:
        """Whether its first token counts against a target."""
        found = self.provision
        return self.lane is Lane.COVERED and found is not None and found.first_token_ms is not None

    def answered(self, first_token_ms: float) -> None:
        """The first token came so long after the call."""
        if self.timed:
            assert self.provision is not None
            assert self.provision.first_token_ms is not None
            self._gate.measured(late=first_token_ms > self.provision.first_token_ms)

    def end(self, tokens: int) -> None:
        """The call has ended and took so many tokens."""
        if self._open:
            self._open = False
            self._gate.left(self, self._ask, tokens, self._began_ms)
