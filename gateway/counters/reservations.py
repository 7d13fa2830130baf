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
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import hiredis

from gateway.counters.address import RedisAddress
from gateway.counters.corrections import corrections
from gateway.counters.degraded import LocalCounters, LocalRefusal
from gateway.counters.epochs import adopt_holds
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
from gateway.counters.hold import Hold, charge_of
from gateway.counters.keys import Keys
from gateway.counters.link import FirstStart, Link, Opener, Standing
from gateway.counters.outbox import Inquiry, Outbox, Report, Settlement, Void
from gateway.counters.plan import Indexes, Plan, Standpoint, compile_plan, draws_of, narrowed
from gateway.counters.top_up import TopUp
from gateway.counters.wording import refusal
from gateway.errors import Forbidden, GatewayError, IdempotencyConflict, Unavailable
from gateway.spool.records import Charge
from policies.budgets import dearest
from policies.catalog import Endpoint, Snapshot
from policies.limits import Mode
from policies.principal import Caller

_log = logging.getLogger(__name__)

_MOST_PLANS = 16_384


class Reservations:
    """Decides, tops up and settles every limit and budget of this worker's requests."""

    def __init__(self, link: Link, *, clock: Callable[[], float] = time.time) -> None:
        """Use `connect`."""
        self.link = link
        self.degraded_admissions = 0
        """How many were decided without Redis; for the metric and the alert."""
        self.late_grants = 0
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(link, link.worker_id)
        self._local = LocalCounters()
        self._holds: dict[str, Hold] = {}
        self._indexes: Indexes | None = None
        self._plans: dict[tuple[Any, ...], Plan] = {}
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

        async def adopt(old: str, new: str) -> None:
            await ready[0]._adopt(old, new)

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
        ready.append(cls(link, clock=clock))
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
    def unsettled(self) -> int:
        """Corrections that Redis has not yet taken."""
        return len(self._outbox)

    @property
    def held(self) -> int:
        """Admissions that Redis still holds something for."""
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
            found = _group(snapshot, caller, group)
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
        plan = self._plan(snapshot, caller, endpoint, group)
        claim = None
        if idempotency is not None:
            # Keyed by a digest: what clients put into their keys is nobody's business.
            digest = blake2b(idempotency[0].encode(), digest_size=16).hexdigest()
            claim = (link.keys.claim(caller.principal.id, digest), idempotency[1].encode())
        hold = Hold(
            self, future, plan, request_id, self._memory_prefix + request_id.encode(), prompt_tokens, output_tokens,
            least_output, plan.rates.fixed(prompt_tokens) if plan.money_taps else 0, claim,
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
            hold.top_up_plan = narrowed(self._standpoint(), hold.plan, hold.parts[0])
        plan = hold.top_up_plan
        hold.step += 1
        if not plan.taps:
            hold.granted_output += output_tokens
            future.set_result(output_tokens)
            return future
        asked = TopUp(self, hold, plan, future, hold.step, output_tokens)
        if self.link.usable and hold.degraded is None:
            asked.send()
        else:
            self.top_up_here(asked)
        return future

    def settle(
        self, reservation: Hold, *, prompt_tokens: int, completion_tokens: int, cost_nano_usd: int
    ) -> None:
        """Correct every charge to what was used; repeated until Redis took it. A second call does nothing."""
        hold = reservation
        if hold.settled:
            return
        hold.settled = True
        usage = (prompt_tokens, completion_tokens, cost_nano_usd)
        if hold.local:
            keys, entries = corrections(hold.local, *usage)
            self._local.correct((key, entry[1], entry[3]) for key, entry in zip(keys, entries, strict=True))
        call = None
        if hold.epoch == self.link.epoch and hold.charges and hold.ordinary:
            call = hold.plan.settle_call(hold.memory, hold.parts[0], hold.base, hold.granted_output, usage)
        self._release(hold.memory, hold.charges, hold.local, usage, hold, call=call)

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
        link.succeeded()
        code, (now_ms,) = reply[0], TIME.unpack_from(reply, 1)
        link.told_time(now_ms)
        if code == GRANTED:
            self._granted(hold, grant_of(reply))
            if future.done():
                self.settle(hold, prompt_tokens=0, completion_tokens=0, cost_nano_usd=0)
            else:
                future.set_result(hold)
        elif code == LOST:
            link.lost()
            self._decide_here(hold)
        elif code == STALE_EDGES and not hold.retried:
            hold.retried = True
            self._plans.clear()
            draws = [tap.draw for tap in hold.plan.taps]
            hold.plan = compile_plan(self._standpoint(), draws, hold.plan.rates, now_ms)
            self._ask(hold)
        elif not future.done():
            future.set_exception(_error(hold, reply))

    def unanswered(self, hold: Hold) -> None:
        """No answer in time: this worker decides, and what Redis did is undone when that is known."""
        self.link.failed()
        self._decide_here(hold)

    def came_late(self, hold: Hold, reply: Any) -> None:
        """Release a grant that nobody waits for any more, or find out whether there is one."""
        if reply is None:
            self._outbox.put(
                Void(self._outbox, hold.memory, hold.epoch, lambda grant: self._release_late(hold, grant))
            )
        elif isinstance(reply, bytes) and reply[0] == GRANTED:
            self._release_late(hold, reply)

    def top_up_here(self, asked: TopUp) -> None:
        """Decide a top-up without Redis."""
        hold = asked.hold
        now_ms = self.link.now_ms()
        found = self._local.decide(
            asked.plan,
            now_ms=now_ms,
            prompt_tokens=0,
            money=0,
            output=asked.output,
            least=1,
            workers=self.link.live_workers,
            topping_up=True,
        )
        if isinstance(found, LocalRefusal):
            asked.refuse(
                found.tap, now_ms=now_ms, left=found.left, reset_ms=found.reset_ms, needed=found.needed
            )
            asked.give(0)
            return
        for tap, position in zip(asked.plan.taps, found.positions, strict=True):
            if position >= 0:
                hold.local.append(charge_of(tap, position, tap.per_token * found.output))
        asked.give(found.output)

    def topped_up(self, hold: Hold, plan: Plan, output: int, positions: Sequence[int]) -> None:
        """Redis granted a top-up."""
        for tap, position in zip(plan.taps, positions, strict=True):
            if position >= 0:
                hold.charges.append(charge_of(tap, position, tap.per_token * output))

    def release_top_up(
        self, hold: Hold, plan: Plan, step: int, output: int, positions: Sequence[int]
    ) -> None:
        """A top-up was granted after it had been given up: undo it alone."""
        charges = [
            charge_of(tap, position, tap.per_token * output)
            for tap, position in zip(plan.taps, positions, strict=True)
            if position >= 0
        ]
        self.late_grants += 1
        self._release(hold.memory + b"~%d" % step, charges, (), (0, 0, 0), None, hold.epoch)

    def inquire(self, hold: Hold, plan: Plan, step: int) -> None:
        """Find out whether a top-up whose answer was lost was granted, and undo it if so."""

        def granted(reply: bytes) -> None:
            grant = grant_of(reply)
            if grant.sequence > hold.last_sequence:
                self.release_top_up(hold, plan, step, grant.output, grant.positions)

        self._outbox.put(Inquiry(self._outbox, hold.memory, hold.epoch, granted))

    # private

    def _standpoint(self) -> Standpoint:
        link = self.link
        return Standpoint(link.scripts, link.keys, link.epoch, link.worker_id)

    def _ask(self, hold: Hold, *, spelled_out: bool = False) -> None:
        link, claim, plan = self.link, hold.claim, hold.plan
        hold.epoch = link.epoch
        ask = ASK.pack(0, hold.asked_output, hold.least_output, hold.prompt_tokens, hold.money)
        data = plan.call(hold.memory, ask) if claim is None else plan.claiming_call(hold.memory, ask, *claim)
        link.connection.send(link.scripts.reserve.spelled_out(data) if spelled_out else data, hold)

    def _granted(self, hold: Hold, grant: Grant) -> None:
        plan, positions = hold.plan, grant.positions
        hold.admitted_at_ms = grant.at_ms
        hold.sequence = hold.last_sequence = grant.sequence
        hold.granted_output = grant.output
        hold.parts = (positions, grant.remaining, grant.resets)
        hold.charges = hold.charges_at(positions, grant.output)
        if plan.has_alternatives:
            hold.group_id = _charged_group(plan, positions)
        for index in plan.money_taps:
            if positions[index] >= 0:
                self._local.remember_left(plan.taps[index].key_at(positions[index]), grant.remaining[index])
        if hold.claim is not None:
            hold.charges.append(_claim_charge(hold.claim))
        hold.write_headers()
        if hold.charges:
            self._holds[hold.request_id] = hold

    def _decide_here(self, hold: Hold) -> None:
        future = hold.future
        if future.done():
            return
        if hold.claim is not None:
            future.set_exception(
                Unavailable("Idempotency keys cannot be honoured for the moment: the counters are away.")
            )
            return
        now_ms = self.link.now_ms()
        found = self._local.decide(
            hold.plan,
            now_ms=now_ms,
            prompt_tokens=hold.prompt_tokens,
            money=hold.money,
            output=hold.asked_output,
            least=hold.least_output,
            workers=self.link.live_workers,
        )
        if isinstance(found, LocalRefusal):
            if found.away:
                whose = found.tap.draw.name or found.tap.draw.owner
                future.set_exception(
                    Unavailable(
                        f"The counters are away, and limit {whose!r} is strict: nothing is admitted unseen."
                    )
                )
            else:
                left, reset_ms, needed = found.left, found.reset_ms, found.needed
                future.set_exception(
                    refusal(hold.plan, found.tap, now_ms=now_ms, left=left, reset_ms=reset_ms, needed=needed)
                )
            return
        self.degraded_admissions += 1
        shared = any(tap.draw.mode is Mode.SHARE for tap in hold.plan.taps)
        hold.degraded = "share" if shared else "open"
        hold.admitted_at_ms = now_ms
        hold.granted_output = found.output
        hold.parts = (found.positions, found.remaining, found.resets)
        hold.local = hold.charges_at(found.positions, found.output)
        if hold.plan.has_alternatives:
            hold.group_id = _charged_group(hold.plan, found.positions)
        hold.write_headers()
        future.set_result(hold)

    def _reply_error(self, hold: Hold, error: hiredis.ReplyError) -> None:
        if str(error).startswith("NOSCRIPT"):
            self._ask(hold, spelled_out=True)
            return
        _log.error("Redis refused to decide: %s", error)
        self.link.failed()
        self._decide_here(hold)

    def _release_late(self, hold: Hold, reply: bytes) -> None:
        grant = grant_of(reply)
        self.late_grants += 1
        charges = hold.charges_at(grant.positions, grant.output)
        if hold.claim is not None:
            charges.append(_claim_charge(hold.claim))
        # Under a name of its own: the request itself may be running, admitted by this worker's own counts. It was
        # never dispatched on this grant, so the count of requests is given back as well.
        self._release(hold.memory + b"~", charges, (), (0, 0, 0), None, hold.epoch, undo=True)

    def _release(
        self,
        memory: bytes,
        charges: Sequence[Charge],
        local: Sequence[Charge],
        usage: tuple[int, int, int],
        hold: Hold | None,
        epoch: str | None = None,
        *,
        undo: bool = False,
        call: bytes | None = None,
    ) -> None:
        settlement = Settlement(
            self._outbox, memory, charges, local, usage, hold.epoch if hold is not None else epoch or "",
            int(self._clock() * 1000), None if hold is None else lambda: self._forget(hold.request_id), undo=undo,
        )  # fmt: skip
        self._outbox.put(settlement, call)

    def _forget(self, request_id: str) -> None:
        self._holds.pop(request_id, None)

    def _plan(self, snapshot: Snapshot, caller: Caller, endpoint: Endpoint, group: str | None) -> Plan:
        indexes = self._indexes
        if indexes is None or indexes.snapshot is not snapshot:
            indexes = self._indexes = Indexes.of(snapshot)
            self._plans.clear()
        who = caller.principal
        key = (who.id, who.groups, caller.key_id, endpoint.id, group)
        plan = self._plans.get(key)
        if plan is None or plan.epoch != self.link.epoch or self.link.now_ms() >= plan.valid_until_ms:
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            draws = draws_of(indexes, caller, endpoint, group)
            plan = compile_plan(self._standpoint(), draws, dearest(endpoint), self.link.now_ms())
            self._plans[key] = plan
        return plan

    async def _adopt(self, old: str, new: str) -> None:
        await adopt_holds(self.link, new, self._holds.values(), self._outbox.errands)

    def _returned(self) -> None:
        keys, entries = self._local.report(self.link.now_ms())
        for start in range(0, len(keys), 500):
            memory = self._memory_prefix + f"report:{self.link.worker_id}:{next(self._numbers)}".encode()
            stop = start + 500
            self._outbox.put(Report(self._outbox, memory, keys[start:stop], entries[start:stop]))
        self._outbox.flush()


def _group(snapshot: Snapshot, caller: Caller, named: str) -> str | None:
    for each in caller.principal.groups:
        group = snapshot.groups.get(each)
        if each == named or (group is not None and group.name == named):
            return each
    return None


def _claim_charge(claim: tuple[bytes, bytes]) -> Charge:
    return Charge("", "", "idempotency", claim[0].decode(), "i", 0, 0, 0)


def _error(hold: Hold, reply: bytes) -> GatewayError:
    if reply[0] == REFUSED:
        now_ms, index, left, reset_ms, needed = REFUSAL.unpack_from(reply, 1)
        tap = hold.plan.taps[index]
        return refusal(hold.plan, tap, now_ms=now_ms, left=left, reset_ms=reset_ms, needed=needed)
    if reply[0] == CLAIMED:
        return IdempotencyConflict(CLAIM_REASONS[reply[9]])
    return Unavailable("This request has already ended; send a new one.")


def _charged_group(plan: Plan, positions: Sequence[int]) -> str | None:
    """The group that pays where one does, else the first whose limits were charged."""
    charged = [
        tap for tap, position in zip(plan.taps, positions, strict=True) if position >= 0 and tap.draw.group_id
    ]
    paying = [tap for tap in charged if tap.amount_class == 3]
    return (paying or charged)[0].draw.group_id if charged else None
