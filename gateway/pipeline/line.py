"""The line's collaborators, built once by app.py and passed to every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from engines.adapter import Adapter
from gateway.pipeline.draining import Drains
from gateway.pipeline.ends import Ends
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.ports import Answers, Catalog, Keys, Reservations, Spool
from gateway.pipeline.turns import Turns
from gateway.routing.traffic import Traffic
from gateway.spool.records import Turned
from policies.catalog import ServedEntity
from policies.doubts import Doubt
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

    def unreachable(self, entity: ServedEntity, address: str) -> None:
        """A call did not get through to there: what is known of it may be out of date."""
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
        turned: Turned | None = None,
    ) -> None:
        """A request was refused before admission; `turned` is what a policy decided about."""
        ...


class Observer(Protocol):
    """Counts what happened; called once a request, never fails."""

    def admitted(self, exchange: Exchange) -> None:
        """A request passed admission."""
        ...

    def failed(self, exchange: Exchange, usage: Usage, doubt: Doubt | None) -> None:
        """An attempt failed before its first byte, and its upstream told what it had used."""
        ...

    def settled(
        self, exchange: Exchange, status: str, usage: Usage, cost_nano_usd: int, duration_ns: int
    ) -> None:
        """A request has ended."""
        ...


class Tap(Protocol):
    """Takes what one call's client is sent, for a call that is kept."""

    def take(self, data: bytes) -> None:
        """The client is sent this."""
        ...

    def end(self) -> None:
        """The call has ended."""
        ...


class Payloads(Protocol):
    """Keeps calls of endpoints that ask for it, beside the calls; never fails, nobody waits for it."""

    def begin(self, exchange: Exchange) -> Tap | None:
        """The tap of an admitted call that is to be kept; None for any other."""
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
    answers: Answers | None = None
    """Stored answers, for endpoints that ask for it."""
    batch_percent: int = 80
    """How much of a shared limit batch work may fill."""
    payloads: Payloads | None = None
    """Keeps calls with what was asked and answered; asked for those endpoints only whose managers want it."""
    ends: Ends = field(default_factory=Ends)
    """Ends of streams, which give way to calls that are being admitted."""
    drains: Drains = field(default_factory=Drains)
    """Streams that are read on for nobody."""
    turns: Turns | None = None
    """Keeps responses for the calls that follow them, for endpoints whose managers want it."""
