"""How far a stream is within its grant: what was read is noted, checkpointed, and topped up before it is used.

Everything here runs between the arrival of a piece and its way on, so nothing of it waits.
"""

from __future__ import annotations

from asyncio import Future

from engines.adapter import StreamReader
from engines.errors import EngineError
from gateway.pipeline.attempts import told_by
from gateway.pipeline.dispatch import checkpoint
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.line import Line
from gateway.spool.records import Progress
from policies.estimate import STREAM_SLICE
from policies.usage import UsageSource

_CHECKPOINT_TOKENS = 64
_CHECKPOINT_NS = 500_000_000
_NOWHERE = -1
# An attribute of an enumeration costs as much as ten of another.
_REPORTED, _COUNTED = UsageSource.REPORTED, UsageSource.COUNTED


class Meter:
    """Keeps a stream inside its grant: counts, checkpoints, and asks for more at half use of the last slice."""

    __slots__ = (
        "_asked",
        "_checkpoint_ns",
        "_checkpoint_tokens",
        "_exchange",
        "_line",
        "_most",
        "_reader",
        "_recorded",
        "_refused",
        "_slice",
        "clock",
        "look_at",
        "look_ns",
        "noted_at",
        "words",
    )

    def __init__(self, line: Line, exchange: Exchange, reader: StreamReader) -> None:
        self._line = line
        self._exchange = exchange
        self._reader = reader
        self.noted_at = _NOWHERE
        """Where in the running table the output tokens are noted."""

    def _begin(self) -> None:
        """There will be more than one piece: what an answer that comes whole has no need of."""
        line, exchange = self._line, self._exchange
        self.clock = line.monotonic_ns
        self.words = line.spool.running.words
        """The running table."""
        self._slice = STREAM_SLICE * exchange.request.n
        most = exchange.request.max_tokens
        self._most = None if most is None else most * exchange.request.n
        self._asked: Future[int] | None = None
        self._refused = False
        self._recorded = len(exchange.reservation.charges) if exchange.reservation is not None else 0
        self._checkpoint_tokens = -_CHECKPOINT_TOKENS
        self._checkpoint_ns = 0
        self.look_at = 0
        """A piece that brings fewer output tokens than this, before `look_ns`, is noted and needs no other look."""
        self.look_ns = 0
        exchange.slot = line.spool.running.begin(exchange.id, exchange.attempt)
        self.noted_at = line.spool.running.completion_at(exchange.slot)

    def read(self) -> None:
        """Take over what the reader has seen; called after every feed that may have changed more than the output."""
        exchange, reader = self._exchange, self._reader
        take_over(exchange, reader)
        if self.noted_at == _NOWHERE:
            if reader.done:
                return
            self._begin()
        running, count = reader.running, reader.count
        if exchange.slot >= 0:
            prompt, cached = (0, 0) if count is None else (count.prompt, count.cached)
            self._line.spool.running.note(exchange.slot, exchange.attempt, prompt, running, cached)
        if reader.done:
            # The settlement is the next record, and the client gets the rest after it.
            if self._asked is not None:
                self._ask()
            return
        now = self.clock()
        # The first byte is a checkpoint of its own: from it on, an interrupted request costs what is known.
        if running - self._checkpoint_tokens >= _CHECKPOINT_TOKENS or (
            now - self._checkpoint_ns >= _CHECKPOINT_NS and running != self._checkpoint_tokens
        ):
            checkpoint(self._line, exchange, reader)
            self._checkpoint_tokens, self._checkpoint_ns = running, now
        if reader.limit - running <= self._slice // 2:
            self._ask()
        self.look_at = min(self._checkpoint_tokens + _CHECKPOINT_TOKENS, self._ask_at())
        self.look_ns = self._checkpoint_ns + _CHECKPOINT_NS

    def take_over(self) -> None:
        """Tell the exchange what the reader has counted."""
        take_over(self._exchange, self._reader)

    def broke(self, failure: EngineError) -> None:
        """The stream failed: tell the exchange what it had used by then."""
        self.take_over()
        count = told_by(failure, self._reader)
        if count is not None:
            self._exchange.count = count
            self._exchange.source = _REPORTED if count.exact else _COUNTED

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
        wanted = self._wanted()
        reservation = self._exchange.reservation
        if wanted > 0 and reservation is not None:
            self._asked = self._line.reservations.top_up(reservation, wanted)

    def _wanted(self) -> int:
        """What the next question asks for."""
        return self._slice if self._most is None else min(self._slice, self._most - self._reader.limit)

    def _ask_at(self) -> int:
        """From how many tokens on there is something to ask, or an answer to look for."""
        if self._asked is not None:
            return 0
        if self._refused or self._wanted() <= 0:
            return self._reader.limit
        return self._reader.limit - self._slice // 2

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


def take_over(exchange: Exchange, reader: StreamReader) -> None:
    """Tell the exchange what the reader has counted."""
    count = reader.count
    if count is not None:
        exchange.count = count
        exchange.source = _REPORTED if count.exact else _COUNTED
    else:
        exchange.counted, exchange.source = reader.counted, _COUNTED
    exchange.finish_reason = reader.finish_reason
