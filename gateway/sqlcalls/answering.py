"""Answers calls from SQL: claims them, carries each along the line, ends those that nobody waits for.

A caller is seen to wait a few times a second. Whoever is not seen for a second has left: its call is cut, the engine is
free, and the ledger says `client`. With PostgreSQL away nothing is claimed, and what runs ends as it may.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

from gateway.errors import Forbidden, GatewayError, Unavailable
from gateway.ids import text
from gateway.pipeline.audit import audit
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.kept import SHUTDOWN, Begun, Outcome, complete_kept, end_begun
from gateway.pipeline.line import Line
from gateway.pipeline.revocation import REVOKED
from gateway.spool.records import Settlement, frame
from gateway.sqlcalls.asking import APIS, read_call
from gateway.sqlcalls.resumed import begun
from gateway.sqlcalls.telling import told
from gateway.store.database import FAILED
from gateway.store.sql_calls import CallQueue, SqlCall
from policies.catalog import Snapshot
from policies.principal import Caller
from policies.tokens import stands

AT_ONCE = 128
LOOK_SECONDS = 0.25
"""Between looks for calls that no notification came for."""
BEAT_SECONDS = 0.2
SWEEP_SECONDS = 5.0
_AGAIN_SECONDS = 0.5
_UNTOLD_SECONDS = 60.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Running:
    """A call under way."""

    task: asyncio.Task[None]
    exchange: Exchange
    keeping: bool = False
    """Its answer is being put into safety: too late to cut it."""


class Answering:
    """The calls of one process."""

    def __init__(self, line: Line, queue: CallQueue) -> None:
        self._line = line
        self._queue = queue
        self._running: dict[UUID, _Running] = {}
        self._untold: dict[UUID, tuple[str | None, float]] = {}
        self._fresh = asyncio.Event()
        self._left = asyncio.Event()
        self._complained = False

    async def run(self) -> None:
        """Answer for ever; when cancelled, what runs goes on until `drain`."""
        chores = (
            self._for_ever(self._claim, self._fresh, LOOK_SECONDS),
            self._for_ever(self._end_left, self._left, BEAT_SECONDS),
            self._for_ever(self._tidy, asyncio.Event(), SWEEP_SECONDS),
        )
        await asyncio.gather(*chores)

    async def drain(self, seconds: float) -> None:
        """Wait for what runs, its callers still seen to; what is left after that is left to another process."""
        ends = time.monotonic() + seconds
        beating = asyncio.create_task(self._for_ever(self._end_left, self._left, BEAT_SECONDS))
        while self._running and (left := ends - time.monotonic()) > 0:
            await asyncio.wait({each.task for each in self._running.values()}, timeout=left)
        beating.cancel()
        tasks = {each.task for each in self._running.values()}
        for each in self._running.values():
            each.exchange.stopped_by = SHUTDOWN
            each.task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5.0)

    def changed(self, snapshot: Snapshot) -> None:
        """Cut the calls of principals that are no longer welcome."""
        for each in self._running.values():
            if not stands(snapshot, each.exchange.caller):
                self._cut(each, REVOKED)

    async def _for_ever(
        self, step: Callable[[], Awaitable[None]], hurry: asyncio.Event, seconds: float
    ) -> None:
        while True:
            hurry.clear()
            try:
                await self._queue.listen(self._fresh.set, self._left.set)
                await step()
                if self._complained:
                    log.warning("Calls from SQL are answered again.")
                    self._complained = False
            except FAILED as exc:
                if not self._complained:
                    log.warning("Calls from SQL wait: PostgreSQL cannot be asked (%s).", type(exc).__name__)
                    self._complained = True
                await asyncio.sleep(_AGAIN_SECONDS)
            except GatewayError as exc:
                log.warning("Calls from SQL wait: %s", exc)
                await asyncio.sleep(_AGAIN_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await hurry.wait()

    async def _claim(self) -> None:
        room = AT_ONCE - len(self._running)
        if room <= 0:
            return
        calls = await self._queue.claim(room)
        for call in calls:
            exchange = Exchange(
                request_id=call.request_id,
                id_text=text(call.request_id),
                api=APIS.get(call.kind, "sql.ai_query"),
                credential="",
                now_ns=self._line.monotonic_ns(),
            )
            exchange.resumable = True
            task = asyncio.create_task(self._answer(call, exchange))
            self._running[call.ticket] = _Running(task, exchange)
        if len(calls) == room:
            self._fresh.set()

    async def _end_left(self) -> None:
        for ticket, left in (await self._queue.beat()).items():
            running = self._running.get(ticket)
            if running is not None:
                self._cut(running, "client" if left else REVOKED)
            elif ticket not in self._untold:
                await self._queue.forget([ticket])
        for ticket, (answer, until) in list(self._untold.items()):
            await self._queue.tell(ticket, answer)
            self._untold.pop(ticket, None)
            if time.monotonic() > until:
                log.warning("a call from SQL was answered too late for its caller")

    async def _tidy(self) -> None:
        for ticket, records in await self._queue.stranded():
            end_begun(self._line, begun(records), "cut", error_code="client_left", stopped_by="client")
            await self._queue.forget([ticket])
        await self._queue.sweep()

    def _cut(self, running: _Running, why: str) -> None:
        if not running.keeping and not running.exchange.settled and running.exchange.stopped_by is None:
            running.exchange.stopped_by = why
            running.task.cancel()

    async def _answer(self, call: SqlCall, exchange: Exchange) -> None:
        earlier: Begun | None = None
        try:
            if call.records is not None:
                earlier = begun(call.records)
            await self._carry(call, exchange, earlier)
            await self._tell(call.ticket)
        except GatewayError as exc:
            if earlier is not None and not earlier.settled and exchange.reservation is None:
                end_begun(self._line, earlier, "error", error_code=exc.code)
            audit(self._line, exchange, exc)
            await self._tell(call.ticket, told(exc, exchange.id_text))
        except CancelledError:
            if earlier is not None and not earlier.settled and exchange.stopped_by != SHUTDOWN:
                end_begun(
                    self._line, earlier, "cut", error_code="client_left", stopped_by=exchange.stopped_by
                )
            await self._ended(call, exchange)
        except Exception:
            log.exception("request %s failed", exchange.id_text)
            await self._tell(call.ticket, told(GatewayError(_FAILED), exchange.id_text))
        finally:
            self._running.pop(call.ticket, None)
            if len(self._running) >= AT_ONCE - 1:
                self._fresh.set()

    async def _carry(self, call: SqlCall, exchange: Exchange, earlier: Begun | None) -> None:
        exchange.snapshot = snapshot = self._line.catalog.snapshot
        principal = None if call.principal_id is None else snapshot.principals.get(call.principal_id)
        if principal is None and call.principal_id is not None:
            raise Unavailable(
                "The principal of this role is not known here yet; try again.", retry_after_seconds=1
            )
        if principal is None or not principal.active:
            raise Forbidden(
                f"The SQL role {call.caller!r} stands for no active principal of the gateway; an administrator"
                f" maps it: weighbridge ai-query map {call.caller} PRINCIPAL."
            )
        exchange.caller = Caller(principal=principal, planes=frozenset({"data"}))
        exchange.request = read_call(call, snapshot)
        exchange.received = call.body.encode()

        async def keep(outcome: Outcome, settlement: Settlement) -> bool:
            running = self._running[call.ticket]
            if exchange.stopped_by is not None:
                return False
            running.keeping = True
            answer = told(outcome, exchange.id_text)
            try:
                return await self._queue.keep(call.ticket, answer, frame(settlement))
            except FAILED:
                # It is answered and will be settled; the caller, if it is still there, gets it later.
                self._untold[call.ticket] = answer, time.monotonic() + _UNTOLD_SECONDS
                return True

        await complete_kept(self._line, exchange, keep, earlier)

    async def _tell(self, ticket: UUID, answer: str | None = None) -> None:
        if ticket in self._untold:
            return
        try:
            await self._queue.tell(ticket, answer)
        except FAILED:
            self._untold[ticket] = answer, time.monotonic() + _UNTOLD_SECONDS

    async def _ended(self, call: SqlCall, exchange: Exchange) -> None:
        """A call was cut: by its caller, by a revocation, or because this process ends."""
        if exchange.stopped_by == SHUTDOWN:
            return
        if exchange.stopped_by == REVOKED:
            refusal = Forbidden(f"The SQL role {call.caller!r} was revoked while its call ran.")
            await self._tell(call.ticket, told(refusal, exchange.id_text))
            return
        with contextlib.suppress(*FAILED):
            await self._queue.forget([call.ticket])


_FAILED = "The gateway failed; the request id finds the cause in its log."
