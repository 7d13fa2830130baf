"""Reserve, top up and settle: the worker's side of the scripts. Without Redis, each limit's mode decides.

Every admission is released: by its settlement, by a grant that came too late being settled at zero, or, where
nobody knows whether it was granted, by asking Redis as soon as it is back.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from asyncio import Future
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import hiredis

from gateway.counters.address import RedisAddress
from gateway.counters.corrections import corrections
from gateway.counters.degraded import LocalCounters
from gateway.counters.epochs import adopt_holds, cut_of
from gateway.counters.errands import Report, Settlement
from gateway.counters.fallback import Fallback
from gateway.counters.frames import (
    ASK,
    CLAIM_REASONS,
    CLAIMED,
    GRANTED,
    LOST,
    REFUSAL,
    REFUSED,
    STALE_EDGES,
    TIME,
    Grant,
    grant_of,
)
from gateway.counters.hold import Hold
from gateway.counters.keys import Keys
from gateway.counters.link import FirstStart, Link, Opener, Standing
from gateway.counters.outbox import Outbox
from gateway.counters.plan import charged_group, compile_plan, narrowed
from gateway.counters.plans import Plans, group_named
from gateway.counters.releases import Releases, claim_charge
from gateway.counters.top_up import TopUp
from gateway.counters.wording import refusal
from gateway.errors import Forbidden, GatewayError, IdempotencyConflict, Unavailable
from policies.catalog import Endpoint, Snapshot
from policies.principal import Caller

_log = logging.getLogger(__name__)


class Reservations:
    """Decides, tops up and settles every limit and budget of this worker's requests."""

    def __init__(self, link: Link) -> None:
        """Use `connect`."""
        self.link = link
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(link, link.worker_id)
        self._local = LocalCounters()
        self._holds: dict[str, Hold] = {}
        self._releases = Releases(self._outbox)
        self._fallback = Fallback(link, self._local)
        self._plans = Plans(link)
        self._memory_prefix = link.keys.memory_prefix
        self._numbers = itertools.count(1)

    @classmethod
    async def connect(
        cls,
        redis_url: str,
        worker_id: str,
        *,
        deployment: str = "wb",
        opener: Opener | None = None,
        clock: Callable[[], float] = time.time,
        timeout_seconds: float = 0.020,
        wait_seconds: float = 5.0,
    ) -> Reservations:
        """Connect and wait a while for Redis; it need not be there: limits then follow their modes.

        `opener` brings lost counters back from the ledger; without one a lost Redis begins at nothing.
        """
        ready: list[Reservations] = []

        async def adopt(old: str, new: str) -> int:
            return await ready[0]._adopt(old, new)

        def returned() -> None:
            ready[0]._returned()

        link = Link(
            RedisAddress.parse(redis_url),
            Keys(deployment),
            worker_id,
            opener=opener or FirstStart(),
            adopt=adopt,
            returned=returned,
            clock=clock,
            timeout_seconds=timeout_seconds,
        )
        ready.append(cls(link))
        link.start()
        await link.wait_usable(wait_seconds)
        return ready[0]

    async def close(self, *, seconds: float = 5.0) -> bool:
        """Hand in what is left and leave; False where Redis did not take all of it in time."""
        drained = await self._outbox.drained(seconds) if self.link.usable else not len(self._outbox)
        self._outbox.stop()
        await self.link.stop()
        return drained

    @property
    def standing(self) -> Standing:
        """For readiness and metrics."""
        return self.link.standing()

    @property
    def degraded_admissions(self) -> int:
        """How many were admitted without Redis; for the metric and the alert."""
        return self._fallback.admissions

    @property
    def late_grants(self) -> int:
        """How many grants came after their callers had given up."""
        return self._releases.late

    @property
    def unsettled(self) -> int:
        """Corrections that Redis has not yet taken."""
        return len(self._outbox)

    @property
    def held(self) -> int:
        """Admissions whose settlement Redis has not yet taken."""
        return len(self._holds)

    # the port

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
    ) -> Future[Hold]:
        """Reserve all or nothing; see the port. `group` is the id or the name of one of the caller's groups."""
        future: Future[Hold] = self._loop.create_future()
        if group is not None:
            found = group_named(snapshot, caller, group)
            if found is None:
                future.set_exception(
                    Forbidden(
                        f"{caller.principal.name!r} is in no group {group!r}; name one of its own groups.",
                        param="x-weighbridge-group",
                    )
                )
                return future
            group = found
        link = self.link
        plan = self._plans.find(snapshot, caller, endpoint, group)
        claim = None
        if idempotency is not None:
            # Keyed by a digest: what clients put into their keys is nobody's business.
            digest = blake2b(idempotency[0].encode(), digest_size=16).hexdigest()
            claim = (link.keys.claim(caller.principal.id, digest), idempotency[1].encode())
        hold = Hold(
            self, future, plan, request_id, self._memory_prefix + request_id.encode(), prompt_tokens, output_tokens,
            least_output, plan.rates.fixed(prompt_tokens) if plan.frame.money_taps else 0, claim,
        )  # fmt: skip
        if link.usable:
            self._ask(hold)
        else:
            self._decide_here(hold)
        return future

    def top_up(self, reservation: Hold, output_tokens: int) -> Future[int]:
        """Ask for more output; what it adds is appended to the reservation's charges."""
        hold = reservation
        future: Future[int] = self._loop.create_future()
        if hold.settled:
            future.set_result(0)
            return future
        if hold.top_up_plan is None or hold.top_up_plan.epoch != self.link.epoch:
            hold.top_up_plan = narrowed(self._plans.standpoint, hold.plan, hold.parts[0])
        plan = hold.top_up_plan
        hold.step += 1
        if not plan.identities:
            hold.granted_output += output_tokens
            future.set_result(output_tokens)
            return future
        asked = TopUp(
            self.link, self._fallback.top_up, self._releases, hold, plan, future, hold.step, output_tokens
        )
        if self.link.usable and hold.degraded is None:
            asked.send()
        else:
            self._fallback.top_up(asked)
        return future

    def settle(
        self,
        reservation: Hold,
        *,
        prompt_tokens: int,
        completion_tokens: int,
        cost_nano_usd: int,
        number: int = 0,
    ) -> None:
        """Correct every charge to what was used; repeated until Redis took it. A second call does nothing.

        `number` is the settlement's in the spool, 0 where there is none: see the port.
        """
        hold = reservation
        if hold.settled:
            return
        hold.settled = True
        usage = (prompt_tokens, completion_tokens, cost_nano_usd)
        if hold.local:
            keys, entries = corrections(hold.local, *usage)
            self._local.correct((key, entry[1], entry[3]) for key, entry in zip(keys, entries, strict=True))
            if self.link.usable:
                # Decided here for a single answer that came late: Redis hears of the charge before its correction.
                self._returned()
        call = None
        # Top-ups have charges of their own.
        ordinary = hold.ordinary and not hold.local and len(hold.charges) == len(hold.seen)
        if ordinary and hold.charges and hold.epoch == self.link.epoch:
            base = 0, 1, hold.prompt_tokens, hold.money
            call = hold.plan.settle_call(hold.memory, hold.parts[0], base, hold.granted_output, usage)
        # Where Redis was asked and did not answer, its own memory of the request must stay as it is: it says
        # whether there is a grant to undo.
        memory = hold.memory if hold.degraded is None else hold.memory + b"+"
        end = Settlement(
            self._outbox,
            memory,
            hold.charges,
            hold.local,
            usage,
            hold.epoch,
            number,
            self._holds,
            hold.request_id,
        )
        self._outbox.put(end, call)

    def abandon(self, future: Future[Hold]) -> None:
        """Whoever awaited a reservation was cancelled: give back what was, or will yet be, granted."""
        if future.cancel():
            return
        if not future.cancelled() and future.exception() is None:
            self.settle(future.result(), prompt_tokens=0, completion_tokens=0, cost_nano_usd=0)

    # replies

    def reserved(self, hold: Hold, reply: Any) -> None:
        """A reservation was answered in time."""
        if type(reply) is not bytes:
            self._reply_error(hold, reply)
            return
        link, future = self.link, hold.future
        code, (now_ms,) = reply[0], TIME.unpack_from(reply, 1)
        link.succeeded(now_ms)
        if code == GRANTED:
            self._granted(hold, grant_of(reply))
            if future is None or future.done():
                self.settle(hold, prompt_tokens=0, completion_tokens=0, cost_nano_usd=0)
            else:
                hold.give()
        elif code == LOST:
            link.lost()
            self._decide_here(hold)
        elif code == STALE_EDGES and not hold.retried:
            hold.retried = True
            self._plans.clear()
            draws = [tap.draw for tap in hold.plan.taps]
            hold.plan = compile_plan(self._plans.standpoint, draws, hold.plan.rates, now_ms)
            self._ask(hold)
        elif future is not None and not future.done():
            future.set_exception(_error(hold, reply))

    def unanswered(self, hold: Hold) -> None:
        """No answer in time: this worker decides, and what Redis did is undone when that is known."""
        self.link.failed()
        self._decide_here(hold)

    def came_late(self, hold: Hold, reply: Any) -> None:
        """Nobody waits for this any more."""
        self._releases.came_late(hold, reply)

    # private

    def _ask(self, hold: Hold, *, spelled_out: bool = False) -> None:
        link, claim, plan = self.link, hold.claim, hold.plan
        hold.epoch = link.epoch
        ask = ASK.pack(0, hold.asked_output, hold.least_output, hold.prompt_tokens, hold.money)
        data = plan.call(hold.memory, ask) if claim is None else plan.claiming_call(hold.memory, ask, *claim)
        link.connection.send(link.scripts.reserve.spelled_out(data) if spelled_out else data, hold)

    def _granted(self, hold: Hold, grant: Grant) -> None:
        plan, positions = hold.plan, grant.positions
        hold.granted(grant)
        if plan.frame.has_alternatives:
            hold.group_id = charged_group(plan, positions)
        for index in plan.frame.money_taps:
            position = positions[index]
            if position >= 0:
                key = plan.identities[index][3] if hold.ordinary else plan.key_at(index, position)
                self._local.remember_left(key, grant.remaining[index])
        if hold.claim is not None:
            hold.charges.append(claim_charge(hold.claim))
        if hold.charges:
            self._holds[hold.request_id] = hold

    def _reply_error(self, hold: Hold, error: hiredis.ReplyError) -> None:
        if str(error).startswith("NOSCRIPT"):
            self._ask(hold, spelled_out=True)
            return
        _log.error("Redis refused to decide: %s", error)
        self.link.failed()
        self._decide_here(hold)

    def _decide_here(self, hold: Hold) -> None:
        self._fallback.decide(hold)
        if hold.local:
            self._holds[hold.request_id] = hold

    async def _adopt(self, old: str, new: str) -> int:
        cut = await cut_of(self.link, new)
        # Adopted with the rest: reported as well, it would count twice.
        aside = self._local.set_aside()
        try:
            await adopt_holds(self.link, new, cut, self._holds.values(), self._outbox.errands)
        except BaseException:
            self._local.put_back(aside)
            raise
        return cut

    def _returned(self) -> None:
        keys, entries = self._local.report(self.link.now_ms())
        for start in range(0, len(keys), 500):
            memory = self._memory_prefix + f"report:{self.link.worker_id}:{next(self._numbers)}".encode()
            stop = start + 500
            self._outbox.put(Report(self._outbox, memory, keys[start:stop], entries[start:stop]))
        self._outbox.flush()


def _error(hold: Hold, reply: bytes) -> GatewayError:
    if reply[0] == REFUSED:
        now_ms, index, left, reset_ms, needed = REFUSAL.unpack_from(reply, 1)
        tap = hold.plan.taps[index]
        error = refusal(hold.plan, tap, now_ms=now_ms, left=left, reset_ms=reset_ms, needed=needed)
        error.decided_at_ms = now_ms
        error.seen = [-1] * index + [tap.draw.capacity - left]
        return error
    if reply[0] == CLAIMED:
        return IdempotencyConflict(CLAIM_REASONS[reply[9]])
    return Unavailable("This request has already ended; send a new one.")
