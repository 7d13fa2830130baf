"""Reservations that outlive the worker that made them, beside this worker's own.

A call that is begun again is not admitted again: what its first admission charged is corrected where it was charged, in
the name of the worker that is dead.
"""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import Future
from typing import Any
from uuid import UUID

from gateway.pipeline.kept import Begun
from gateway.pipeline.ports import Reservations
from gateway.spool.books import Settler
from gateway.spool.records import Attempt, Intent
from gateway.spool.segments import decode, payloads
from policies.catalog import Endpoint, Snapshot
from policies.principal import Caller

REMEMBERED_SECONDS = 55.0
"""The counters know a settlement that they had for a minute: until then it may be told again."""
_RETRY_SECONDS = 1.0

log = logging.getLogger(__name__)


def begun(records: bytes) -> Begun:
    """What a dead process had begun, from the records that it left."""
    first, *rest = (decode(payload) for payload, _ in payloads(records))
    assert isinstance(first, Intent), "the drainer leaves the intent first"
    return Begun(first, [each for each in rest if isinstance(each, Attempt)])


class ResumedReservations:
    """The port Reservations."""

    def __init__(self, own: Reservations[Any], settler: Settler, spool_id: UUID) -> None:
        """`spool_id` names this worker's spool, where what is gone on with is settled too."""
        self._own = own
        self._settler = settler
        self._spool_id = str(spool_id)
        self._owed: set[asyncio.Task[None]] = set()

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
        **more: Any,
    ) -> Future[Any]:
        """Reserve, for a call that begins."""
        return self._own.reserve(
            snapshot,
            caller,
            endpoint,
            request_id=request_id,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            least_output=least_output,
            group=group,
            idempotency=idempotency,
            **more,
        )

    def abandon(self, future: Future[Any]) -> None:
        """Nobody waits for this reservation any more."""
        self._own.abandon(future)

    def top_up(self, reservation: Any, output_tokens: int) -> Future[int]:
        """Ask for more output tokens."""
        return self._own.top_up(reservation, output_tokens)

    def settle(
        self,
        reservation: Any,
        *,
        prompt_tokens: int,
        completion_tokens: int,
        cost_nano_usd: int,
        number: int = 0,
    ) -> None:
        """Correct every charge to what was used; returns at once."""
        if not isinstance(reservation, Begun):
            self._own.settle(
                reservation,
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
                cost_nano_usd=cost_nano_usd,
                number=number,
            )
        elif not reservation.settled:
            reservation.settled = True
            task = asyncio.create_task(
                self._correct(reservation, prompt_tokens, completion_tokens, cost_nano_usd, number)
            )
            self._owed.add(task)
            task.add_done_callback(self._owed.discard)

    async def settled(self, seconds: float) -> None:
        """Wait until all is corrected, for so long at most."""
        if self._owed:
            await asyncio.wait(set(self._owed), timeout=seconds)

    async def _correct(
        self, reservation: Begun, prompt: int, completion: int, cost: int, number: int
    ) -> None:
        until = time.monotonic() + REMEMBERED_SECONDS
        while True:
            try:
                await self._settler.settle(
                    worker_id=str(UUID(bytes=reservation.intent.admitted_by)),
                    request_id=reservation.request_id,
                    charges=reservation.charges,
                    granted_output=reservation.granted_output,
                    prompt_tokens=prompt,
                    completion_tokens=completion,
                    cost_nano_usd=cost,
                    spool_id=self._spool_id,
                    number=number,
                )
            except Exception:
                # Whatever the counters' trouble is: the ledger has the request, and a rebuild finds it there.
                if time.monotonic() + _RETRY_SECONDS > until:
                    log.exception("request %s was not settled in the counters", reservation.request_id)
                    return
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return
