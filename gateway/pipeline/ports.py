"""What the line asks of the world: protocols that stores, counters and fakes implement.

The line knows none of HTTP, SQL or Redis; what is away shows as the errors of gateway.errors.
"""

from __future__ import annotations

from asyncio import Future
from typing import Protocol, TypeVar

import msgspec

from gateway.errors import LimitDetail
from gateway.spool.records import Charge, Intent, Progress, Record
from policies.catalog import Endpoint, Snapshot
from policies.principal import Caller


class Keys(Protocol):
    """Finds the caller behind a credential."""

    def known(self, credential: str) -> Caller | None:
        """The caller, when the credential was verified recently and nothing has changed since."""
        ...

    async def verify(self, credential: str, snapshot: Snapshot, address: str | None = None) -> Caller:
        """Verify a credential; raises Unauthenticated, or Unavailable when PostgreSQL is away and it is unknown.

        Raises TooManyFailures where too many from that address failed.
        """
        ...


class Catalog(Protocol):
    """The configuration as of now."""

    @property
    def snapshot(self) -> Snapshot:
        """The present snapshot; raises Unavailable while there is none or it could not be confirmed for 15 minutes."""
        ...


class Reservation(Protocol):
    """What one admission holds. Nothing is released twice: `settled` turns true on the first settlement."""

    request_id: str
    admitted_at_ms: int
    sequence: int
    granted_output: int
    group_id: str | None
    degraded: str | None
    charges: list[Charge]
    settled: bool
    seen: list[int]
    """What the counters showed that decided it, draw by draw; empty where they were not asked."""
    fields: bytes
    """`x-ratelimit-*` and `x-weighbridge-reserved` as lines of an answer's head; asked for once, with the first of the answer."""
    refusal: LimitDetail | None
    """Which limit refused the last top-up; None while none did."""


R = TypeVar("R", bound=Reservation)


class Reservations(Protocol[R]):
    """Decides, tops up and settles every limit and budget of a request."""

    def reserve(
        self,
        snapshot: Snapshot,
        caller: Caller,
        endpoint: Endpoint,
        *,
        request_id: str,
        prompt_tokens: int,
        output_tokens: int,
        least_output: int,
        group: str | None = None,
        idempotency: tuple[str, str] | None = None,
    ) -> Future[R]:
        """Reserve all or nothing.

        `output_tokens` is the allowance asked for (times `n` already), `least_output` the least that is of use.
        `idempotency` is (key, digest of the body). The future raises LimitExceeded, BudgetExhausted,
        IdempotencyConflict or Unavailable.
        """
        ...

    def abandon(self, future: Future[R]) -> None:
        """Nobody waits for this reservation any more: what it grants, or has granted, is given back."""
        ...

    def top_up(self, reservation: R, output_tokens: int) -> Future[int]:
        """Ask for more output tokens; the future gives how many were granted, 0 where a limit refuses."""
        ...

    def settle(
        self,
        reservation: R,
        *,
        prompt_tokens: int,
        completion_tokens: int,
        cost_nano_usd: int,
        number: int = 0,
    ) -> None:
        """Correct every charge to what was used; returns at once, is repeated until Redis took it.

        `number` is the settlement's in this worker's spool, by which counters that are rebuilt from the ledger tell
        whether they hold it already; 0 where the ledger is to have no row of it.
        """
        ...


class MutableWords(Protocol):
    """Numbers by their place."""

    def __setitem__(self, at: int, number: int, /) -> None: ...


class Running(Protocol):
    """Notes the tokens of each stream before they are passed on, where a killed worker's successor finds them."""

    def begin(self, request_id: bytes, attempt: int) -> int:
        """Take a slot; -1 where none is left."""
        ...

    def note(self, slot: int, attempt: int, prompt: int, completion: int, cache_read: int) -> None:
        """Write the tokens so far."""
        ...

    @property
    def words(self) -> MutableWords:
        """Where tokens are noted without a call."""
        ...

    def completion_at(self, slot: int) -> int:
        """Where in `words` a slot's output tokens are; somewhere harmless for -1."""
        ...

    def end(self, slot: int) -> None:
        """Give the slot back."""
        ...


class Spool(Protocol):
    """The worker's own append-only file. Appending is a write to the page cache: it survives the process."""

    numbered: int
    """How many intents and settlements were appended; whoever appends one counts it here, so that none goes missing unseen."""

    @property
    def running(self) -> Running:
        """The streams that run now."""
        ...

    def append(self, record: Record) -> None:
        """Append one record; raises SpoolFull when the cap is reached and the record would start new work."""
        ...

    def admits(self) -> bool:
        """Whether new work may start (the spool is below its cap)."""
        ...


class Stored(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An answer that was given, to be given again."""

    at_ms: int
    """When it was given."""
    finish_reason: str | None
    body: bytes
    """The plain answer, in the dialect in which it was asked for."""


class Answers(Protocol):
    """Answers that were given before. Never fails: what is away holds nothing."""

    async def find(self, question: bytes) -> Stored | None:
        """The answer to exactly this."""
        ...

    def keep(self, question: bytes, answer: Stored, seconds: int) -> None:
        """Store it for so long; returns at once."""
        ...


class Outlet(Protocol):
    """Where a stream's frames go: the way to its client."""

    def write(self, frames: bytes) -> bool:
        """Pass frames on, now or at the next `ready`; False where it should get no more until then."""
        ...

    async def ready(self) -> None:
        """Wait until it takes more."""
        ...


__all__ = [
    "Answers",
    "Catalog",
    "Intent",
    "Keys",
    "Outlet",
    "Progress",
    "Reservation",
    "Reservations",
    "Spool",
    "Stored",
]
