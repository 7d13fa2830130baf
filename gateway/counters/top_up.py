"""One request for more output in the middle of a stream.

Charged where its admission was charged: the same limits, the group that was frozen then, the same period.
"""

from __future__ import annotations

from asyncio import Future
from typing import TYPE_CHECKING, Any

import hiredis

from gateway.counters.frames import ASK, GRANTED, LOST, REFUSAL, REFUSED, grant_of
from gateway.counters.hold import Hold
from gateway.counters.plan import Plan, Tap
from gateway.counters.wording import detail_of

if TYPE_CHECKING:
    from gateway.counters.reservations import Reservations


class TopUp:
    """Who asked Redis for it; the future gives how many tokens were granted, 0 where a limit refuses."""

    __slots__ = ("future", "hold", "home", "output", "plan", "step")

    def __init__(
        self, home: Reservations, hold: Hold, plan: Plan, future: Future[int], step: int, output: int
    ) -> None:
        self.home = home
        self.hold = hold
        self.plan = plan
        self.future = future
        self.step = step
        self.output = output

    def send(self, *, spelled_out: bool = False) -> None:
        """Ask Redis."""
        link = self.home.link
        data = self.plan.call(self.hold.memory, ASK.pack(self.step, self.output, 1, 0, 0))
        link.connection.send(link.scripts.reserve.spelled_out(data) if spelled_out else data, self)

    def give(self, output: int) -> None:
        """Tell whoever waits."""
        if self.future.done():
            return
        self.hold.granted_output += output
        if output:
            self.hold.refusal = None
        self.future.set_result(output)

    # Asked

    def answered(self, reply: Any) -> None:
        """Take the grant over, also where nobody waits: the settlement gives back what was not used."""
        if not isinstance(reply, bytes):
            if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
                self.send(spelled_out=True)
                return
            self.home.link.failed()
            self.home.top_up_here(self)
            return
        if reply[0] == GRANTED:
            grant = grant_of(reply)
            if self.hold.settled:
                self.home.release_top_up(self.hold, self.plan, self.step, grant.output, grant.positions)
                self.give(0)
                return
            self.hold.last_sequence = grant.sequence
            self.home.topped_up(self.hold, self.plan, grant.output, grant.positions)
            self.give(grant.output)
        elif reply[0] == LOST:
            self.home.link.lost()
            self.home.top_up_here(self)
        else:
            if reply[0] == REFUSED:
                now_ms, index, left, reset_ms, needed = REFUSAL.unpack_from(reply, 1)
                self.refuse(self.plan.taps[index], now_ms=now_ms, left=left, reset_ms=reset_ms, needed=needed)
            self.give(0)

    def refuse(self, tap: Tap, *, now_ms: int, left: int, reset_ms: int, needed: int) -> None:
        """Leave a note of the limit that has no room, for the stream's last chunk."""
        self.hold.refusal = detail_of(tap, now_ms=now_ms, left=left, reset_ms=reset_ms, needed=needed)

    def failed(self) -> None:
        """No answer in time: decide here."""
        self.home.link.failed()
        self.home.top_up_here(self)

    def late(self, reply: Any) -> None:
        """Undo a grant that came too late, or find out whether there is one."""
        if reply is None:
            self.home.inquire(self.hold, self.plan, self.step)
        elif isinstance(reply, bytes) and reply[0] == GRANTED:
            grant = grant_of(reply)
            self.home.release_top_up(self.hold, self.plan, self.step, grant.output, grant.positions)
