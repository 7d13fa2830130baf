"""Admissions and top-ups that this worker decides alone, because Redis is away; each says so in its answer."""

from __future__ import annotations

from gateway.counters.degraded import LocalCounters, LocalRefusal
from gateway.counters.hold import Hold
from gateway.counters.link import Link
from gateway.counters.plan import charged_group
from gateway.counters.releases import top_up_charges
from gateway.counters.top_up import TopUp
from gateway.counters.wording import refusal
from gateway.errors import Unavailable
from policies.limits import Mode


class Fallback:
    """Decides by each limit's mode, on this worker's own counts."""

    def __init__(self, link: Link, local: LocalCounters) -> None:
        self.admissions = 0
        """How many were admitted without Redis."""
        self._link = link
        self._local = local

    def decide(self, hold: Hold) -> None:
        """Admit or refuse what Redis was, or would have been, asked for."""
        future = hold.future
        if future is None or future.done():
            return
        if hold.claim is not None:
            future.set_exception(
                Unavailable("Idempotency keys cannot be honoured for the moment: the counters are away.")
            )
            return
        now_ms = self._link.now_ms()
        found = self._local.decide(
            hold.plan,
            now_ms=now_ms,
            prompt_tokens=hold.prompt_tokens,
            money=hold.money,
            output=hold.asked_output,
            least=hold.least_output,
            workers=self._link.live_workers,
        )
        if isinstance(found, LocalRefusal):
            if found.away:
                whose = found.tap.draw.name or found.tap.draw.owner
                future.set_exception(
                    Unavailable(
                        f"The counters are away, and limit {whose!r} is strict: nothing is admitted unseen."
                    )
                )
                return
            left, reset_ms, needed = found.left, found.reset_ms, found.needed
            future.set_exception(
                refusal(hold.plan, found.tap, now_ms=now_ms, left=left, reset_ms=reset_ms, needed=needed)
            )
            return
        self.admissions += 1
        shared = any(tap.draw.mode is Mode.SHARE for tap in hold.plan.taps)
        hold.degraded = "share" if shared else "open"
        hold.admitted_at_ms = now_ms
        hold.granted_output = found.output
        hold.parts = (found.positions, found.remaining, found.resets)
        hold.local = hold.charges_at(found.positions, found.output)
        hold.group_id = charged_group(hold.plan, found.positions)
        hold.give()

    def top_up(self, asked: TopUp) -> None:
        """Decide a top-up, whoever admitted the request."""
        now_ms = self._link.now_ms()
        found = self._local.decide(
            asked.plan,
            now_ms=now_ms,
            prompt_tokens=0,
            money=0,
            output=asked.output,
            least=1,
            workers=self._link.live_workers,
            topping_up=True,
        )
        if isinstance(found, LocalRefusal):
            asked.refuse(
                found.tap, now_ms=now_ms, left=found.left, reset_ms=found.reset_ms, needed=found.needed
            )
            asked.give(0)
            return
        asked.hold.local += top_up_charges(asked.plan, found.positions, found.output)
        asked.give(found.output)
