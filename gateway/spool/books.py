"""What the drainer asks of the ledger and of the counters, and the rows it hands over.

A posting may be handed over any number of times: the ledger takes it once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol
from uuid import UUID

from gateway.spool.records import Charge, Record, Refusal

EVERYTHING = 2**62
"""The number of the last settlement of a spool whose owner is dead, once all that it left open was ended."""


class Away(Exception):
    """The ledger cannot be written now, whatever the rows: wait and try again."""


class Refused(Exception):
    """The ledger refuses these rows for what is in them; trying again as they are does not help."""


class RequestRow(NamedTuple):
    """One row of `requests`; the meaning of each field is the column's comment."""

    request_id: bytes
    admitted_at_ms: int
    ended_at_ms: int
    sequence: int
    snapshot_version: int
    worker_id: bytes
    principal_id: str
    principal_kind: str
    principal_name: str
    key_id: str | None
    group_id: str | None
    endpoint_id: str
    endpoint_name: str
    entity_id: str | None
    entity_name: str | None
    model: str | None
    api: str
    stream: bool
    status: str
    http_status: int | None
    error_code: str | None
    finish_reason: str | None
    stopped_by: str | None
    fresh_input: int
    cache_read: int
    cache_write: int
    output: int
    reasoning: int
    usage_source: str
    price_id: str | None
    cost_nano_usd: int
    estimated_prompt_tokens: int
    granted_output_tokens: int
    charges: str
    tags: str | None
    client_request_id: str | None
    end_user: str | None
    first_byte_us: int | None
    duration_us: int
    queue_us: int
    cache_hit: bool
    degraded: str | None
    attempts: int
    batch: bool
    begun_number: int | None
    ended_number: int | None
    weighed: str | None = None


class AttemptRow(NamedTuple):
    """One row of `attempts`."""

    request_id: bytes
    attempt: int
    admitted_at_ms: int
    started_at_ms: int
    entity_id: str
    entity_name: str
    model: str
    outcome: str
    http_status: int | None
    error_code: str | None
    reason: str | None
    fresh_input: int
    cache_read: int
    cache_write: int
    output: int
    reasoning: int
    usage_source: str
    price_id: str
    cost_nano_usd: int
    borne: bool
    first_byte_us: int | None
    duration_us: int
    provision_id: str | None = None
    lane: str | None = None


class Place(NamedTuple):
    """A frame's place in its spool."""

    segment: int
    offset: int


@dataclass(slots=True)
class Posting:
    """A request that has ended: its rows, where its records begin, and what is needed to correct the counters."""

    request: RequestRow
    attempts: list[AttemptRow]
    place: Place
    records: tuple[Record, ...]
    charges: list[Charge]

    @property
    def prompt_tokens(self) -> int:
        """All of the input."""
        return self.request.fresh_input + self.request.cache_read + self.request.cache_write

    @property
    def completion_tokens(self) -> int:
        """All of the output."""
        return self.request.output + self.request.reasoning


@dataclass(frozen=True, slots=True)
class Position:
    """How far a spool has been posted."""

    spool_id: UUID
    place: Place
    complete_until_ms: int
    closed: bool = False
    read_until_ms: int | None = None
    """All that was appended before, by the host's clock, is posted; None where that is not known."""
    ended_number: int = 0
    """All settlements up to this number are posted, and none beyond it."""


class Books(Protocol):
    """The ledger. Every call raises Away while it cannot be reached."""

    async def post(self, postings: Sequence[Posting], positions: Collection[Position]) -> set[bytes]:
        """Post rows, sums and positions in one transaction; the ids that were new. Raises Refused, changing nothing."""
        ...

    async def positions(self, spools: Collection[UUID]) -> Mapping[UUID, Position]:
        """How far these spools have been posted, as far as is known."""
        ...

    async def known(self, request_ids: Collection[bytes]) -> set[bytes]:
        """Which of these requests are in the ledger."""
        ...

    async def posted_within(self, request_ids: Collection[bytes], seconds: float) -> set[bytes]:
        """Which of these requests were posted in the last `seconds`."""
        ...

    async def make_partitions(self) -> int:
        """Make the partitions of the coming weeks; how many were missing."""
        ...

    async def forget(self, spool_id: UUID) -> None:
        """Take out the position of a spool whose folder is gone."""
        ...


class Settler(Protocol):
    """The counters, for requests whose worker died before it could correct them."""

    async def settle(
        self,
        *,
        worker_id: str,
        request_id: str,
        charges: list[Charge],
        granted_output: int,
        prompt_tokens: int,
        completion_tokens: int,
        cost_nano_usd: int,
        spool_id: str,
        number: int,
    ) -> None:
        """Correct every charge to what was used; a repetition changes nothing. Raises while the counters are away.

        `number` is that of the settlement in the spool, or EVERYTHING where it has none of that request.
        """
        ...

    async def unsettled(self, worker_id: str) -> Sequence[str]:
        """The requests of a worker of which the counters hold something for long. Raises while they are away."""
        ...

    async def release(self, *, worker_id: str, request_id: str) -> None:
        """Give back what was taken for a request that never began; a repetition changes nothing. Raises likewise."""
        ...


class Calls(Protocol):
    """Calls that outlive the process that runs them: those from SQL, whose callers still wait. All raise Away."""

    async def kept(self, worker_id: UUID) -> Mapping[bytes, bytes]:
        """By request id: how calls ended that a dead process had answered and not told yet, as a spool's frame."""
        ...

    async def resume(
        self, worker_id: UUID, begun: Mapping[bytes, bytes], numbers: Mapping[bytes, int]
    ) -> set[bytes]:
        """Let others begin again what a dead process had begun: id -> what they go on from; the ids that are theirs.

        Asked again it gives the same, whatever has become of the calls since. `numbers` are the intents' own, for those
        who look for gaps.
        """
        ...

    async def release(self, worker_id: UUID) -> None:
        """What a dead process had answered is in the books: the callers may have it."""
        ...


class Seals(Protocol):
    """The audit, for refusals."""

    async def seal(self, refusals: Mapping[UUID, Sequence[Refusal]]) -> int:
        """Seal each spool's refusals, oldest first, into the chain; how many were new to it. Raises Away, Refused."""
        ...
