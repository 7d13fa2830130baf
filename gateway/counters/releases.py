"""Handing back whatever Redis granted after nobody waited for it any more.

What came too late is undone under a name of its own, because the request itself may run on, admitted by this
worker's own counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.counters.errands import Inquiry, Settlement, Void
from gateway.counters.frames import GRANTED, grant_of
from gateway.counters.hold import Hold, charge_of
from gateway.counters.outbox import Outbox
from gateway.counters.plan import Plan
from gateway.spool.records import Charge


class Releases:
    """Turns what came too late into errands."""

    def __init__(self, outbox: Outbox) -> None:
        self.late = 0
        """Grants that came after their callers had given up."""
        self._outbox = outbox

    def came_late(self, hold: Hold, reply: Any) -> None:
        """Undo a grant that nobody waits for any more, or find out whether there is one."""
        if reply is None:
            self._outbox.put(
                Void(self._outbox, hold.memory, hold.epoch, lambda grant: self._undo_admission(hold, grant))
            )
        elif isinstance(reply, bytes) and reply[0] == GRANTED:
            self._undo_admission(hold, reply)

    def top_up_came_late(self, hold: Hold, plan: Plan, step: int, reply: Any) -> None:
        """The same for a top-up."""
        if reply is None:

            def granted(grant: bytes) -> None:
                # The memory may still hold the grant before, which is known.
                if grant_of(grant).sequence > hold.last_sequence:
                    self._undo_top_up(hold, plan, step, grant)

            # Asked in the epoch of its plan, which may have begun after the admission's.
            self._outbox.put(Inquiry(self._outbox, hold.memory, plan.epoch, granted))
        elif isinstance(reply, bytes) and reply[0] == GRANTED:
            self._undo_top_up(hold, plan, step, reply)

    def _undo_admission(self, hold: Hold, reply: bytes) -> None:
        grant = grant_of(reply)
        charges = hold.charges_at(grant.positions, grant.output)
        if hold.claim is not None:
            charges.append(claim_charge(hold.claim))
        # Nothing was ever dispatched on this grant: the count of requests is given back as well.
        self._undo(hold, b"~", charges, hold.epoch, undo=True)

    def _undo_top_up(self, hold: Hold, plan: Plan, step: int, reply: bytes) -> None:
        grant = grant_of(reply)
        charges = top_up_charges(plan, grant.positions, grant.output)
        self._undo(hold, b"~%d" % step, charges, plan.epoch, undo=False)

    def _undo(self, hold: Hold, suffix: bytes, charges: list[Charge], epoch: str, *, undo: bool) -> None:
        self.late += 1
        memory = hold.memory + suffix
        self._outbox.put(Settlement(self._outbox, memory, charges, (), (0, 0, 0), epoch, 0, undo=undo))


def top_up_charges(plan: Plan, positions: Sequence[int], output: int) -> list[Charge]:
    """The charges that a top-up of `output` tokens made."""
    return [
        charge_of(tap, position, tap.per_token * output)
        for tap, position in zip(plan.taps, positions, strict=True)
        if position >= 0
    ]


def claim_charge(claim: tuple[bytes, bytes]) -> Charge:
    """A client's idempotency key, held like anything else that an admission charged."""
    return Charge("", "", "idempotency", claim[0].decode(), "i", 0, 0, 0)
