"""How far a stream is within its grant: what was read is noted, checkpointed, and topped up before it is used.

Everything here runs between the arrival of a piece and its way on, so nothing of it waits.
"""

from __future__ import annotations

from asyncio import Future

from engines.adapter import StreamReader
from gateway.pipeline.dispatch import checkpoint
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.line import Line
from gateway.spool.records import Progress
from policies.estimate import STREAM_SLICE
from policies.usage import UsageSource

_CHECKPOINT_TOKENS = 64
_CHECKPOINT_NS = 500_000_000


class Meter:
    """Keeps a stream inside its grant: counts, checkpoints, and asks for more at half use of the last slice."""

    __slots__ = (
        "_asked",
        "_checkpoint_ns",
        "_checkpoint_tokens",
        "_clock",
        "_exchange",
        "_line",
        "_most",
        "_note",
        "_reader",
        "_recorded",
        "_refused",
        "_slice",
    )

    def __init__(self, line: Line, exchange: Exchange, reader: StreamReader) -> None:
        self._line = line
        self._exchange = exchange
        self._reader = reader
        self._slice = STREAM_SLICE * exchange.request.n
        most = exchange.request.max_tokens
        self._most = None if most is None else most * exchange.request.n
        self._asked: Future[int] | None = None
        self._refused = False
        self._recorded = len(exchange.reservation.charges) if exchange.reservation is not None else 0
        self._checkpoint_tokens = -_CHECKPOINT_TOKENS
        self._checkpoint_ns = 0
        self._note = line.spool.running.note
        self._clock = line.monotonic_ns
        exchange.slot = line.spool.running.begin(exchange.id, exchange.attempt)

    def read(self) -> None:
        """Take over what the reader has seen; called after every feed."""
        exchange, reader = self._exchange, self._reader
        count, running = reader.count, reader.running
        prompt = cached = 0
        if count is not None:
            prompt, cached = count.prompt, count.cached
            exchange.count = count
            exchange.source = UsageSource.REPORTED if count.exact else UsageSource.COUNTED
        else:
            exchange.counted, exchange.source = reader.counted, UsageSource.COUNTED
        exchange.finish_reason = reader.finish_reason
        if exchange.slot >= 0:
            self._note(exchange.slot, exchange.attempt, prompt, running, cached)
        now = self._clock()
        # The first byte is a checkpoint of its own: from it on, an interrupted request costs what is known.
        if running - self._checkpoint_tokens >= _CHECKPOINT_TOKENS or (
            now - self._checkpoint_ns >= _CHECKPOINT_NS and running != self._checkpoint_tokens
        ):
            checkpoint(self._line, exchange, reader)
            self._checkpoint_tokens, self._checkpoint_ns = running, now
        if reader.limit - running <= self._slice // 2:
            self._ask()

    async def extend(self) -> bool:
        """The grant is used up: wait for more. False where a limit refuses, or the upstream overran `max_tokens`."""
        self._ask()
        if self._asked is None:
            return False
        await self._asked
        return self._granted()

    def stopped(self) -> dict[str, str | None]:
        """What ended the stream, for its last chunk."""
        self._exchange.finish_reason = "length"
        self._exchange.stopped_by = "limit"
        reservation = self._exchange.reservation
        refusal = reservation.refusal if reservation is not None else None
        return {
            "stopped_by": "limit" if refusal is not None else "max_tokens",
            "limit": refusal.limit if refusal is not None else None,
            "scope": refusal.scope if refusal is not None else None,
        }

    def _ask(self) -> None:
        if self._asked is not None and self._asked.done():
            self._granted()
        if self._asked is not None or self._refused or self._reader.done:
            return
        wanted = self._slice if self._most is None else min(self._slice, self._most - self._reader.limit)
        reservation = self._exchange.reservation
        if wanted > 0 and reservation is not None:
            self._asked = self._line.reservations.top_up(reservation, wanted)

    def _granted(self) -> bool:
        """Take over the answer to the last question; True where it gave tokens."""
        asked, self._asked = self._asked, None
        reservation = self._exchange.reservation
        if asked is None or reservation is None:
            return False
        granted = asked.result()
        if granted <= 0:
            self._refused = True
            return False
        self._reader.limit += granted
        charges = reservation.charges[self._recorded :]
        self._recorded += len(charges)
        entity = self._exchange.entity
        assert entity is not None
        self._line.spool.append(
            Progress(
                request_id=self._exchange.id,
                attempt=self._exchange.attempt,
                at_ms=self._line.wall_ms(),
                entity_id=entity.id,
                first_byte=True,
                prompt_tokens=self._reader.count.prompt if self._reader.count is not None else 0,
                completion_tokens=self._reader.running,
                granted_output_tokens=self._reader.limit,
                charges=charges,
            )
        )
        return True
