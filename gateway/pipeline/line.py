"""The line's collaborators, built once by app.py and passed to every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from engines.adapter import Adapter
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.ports import Catalog, Keys, Reservations, Spool
from gateway.routing.traffic import Traffic
from policies.catalog import ServedEntity
from policies.usage import Usage


class Engines(Protocol):
    """The adapters of this deployment, and whether each can be called."""

    def addresses(self, entity: ServedEntity) -> tuple[str, ...]:
        """Where the entity can be called now: one address, or those of its replicas that are up."""
        ...

    def adapter(self, entity: ServedEntity, address: str) -> Adapter:
        """The adapter of an entity at one of its addresses."""
        ...

    def unfit(self, entity: ServedEntity) -> str | None:
        """Why the entity cannot be called now, None if it can."""
        ...

    def gone_for_good(self, entity: ServedEntity) -> bool:
        """Whether waiting for an unfit entity is pointless."""
        ...


class Trail(Protocol):
    """Keeps how refused requests ended; bounded, never fails."""

    def refused(
        self,
        principal_id: str | None,
        asked: str | None,
        code: str,
        *,
        limit_id: str | None = None,
        address: str | None = None,
        plane: str = "data",
    ) -> None:
        """A request was refused before admission."""
        ...


class Observer(Protocol):
    """Counts what happened; called once a request, never fails."""

    def admitted(self, exchange: Exchange) -> None:
        """A request passed admission."""
        ...

    def settled(
        self, exchange: Exchange, status: str, usage: Usage, cost_nano_usd: int, duration_ns: int
    ) -> None:
        """A request has ended."""
        ...


@dataclass(frozen=True, slots=True)
class Line:
    """Everything that a step may ask."""

    keys: Keys
    catalog: Catalog
    reservations: Reservations[Any]
    spool: Spool
    engines: Engines
    observer: Observer
    trail: Trail
    cache_salt: Callable[[str], str]
    """Turns the charged group or principal into the engine's prefix-cache salt."""
    draw: Callable[[], float]
    """Uniform in [0, 1); picks from traffic splits."""
    monotonic_ns: Callable[[], int]
    wall_ms: Callable[[], int]
    traffic: Traffic
    """Loads, circuits and places of whatever is called."""
    batch_percent: int = 80
    """How much of a shared limit batch work may fill."""
