"""One request for more output in the middle of a stream.

Charged where its admission was charged: the same limits, the group that was frozen then, the same period.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable
from typing import Any

import hiredis

from gateway.counters.frames import ASK, GRANTED, LOST, REFUSAL, REFUSED, grant_of
from gateway.counters.hold import Hold
from gateway.counters.link import Link
from gateway.counters.plan import Plan
from gateway.counters.releases import Releases, top_up_charges
from gateway.counters.taps import Tap
from gateway.counters.wording import detail_of


class TopUp:
    """Who asked Redis for it; the future gives how many tokens were granted, 0 where a limit refuses."""

    __slots__ = ("decide_here", "future", "hold", "link", "output", "plan", "releases", "step")

    def __init__(
        self,
        link: Link,
        decide_here: Callable[[TopUp], None],
        releases: Releases,
        hold: Hold,
        plan: Plan,
        future: Future[int],
        step: int,
        output: int,
    ) -> None:
        self.link = link
        self.decide_here = decide_here
        self.releases = releases
        self.hold = hold
        self.plan = plan
        self.future = future
        self.step = step
        self.output = output

    def send(self, *, spelled_out: bool = False) -> None:
        """Ask Redis."""
        link = self.link
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
            self.link.failed()
            self.decide_here(self)
            return
        if reply[0] == GRANTED:
            if self.hold.settled:
                self.late(reply)
                self.give(0)
                return
            grant = grant_of(reply)
            self.hold.last_sequence = grant.sequence
            self.hold.charges += top_up_charges(self.plan, grant.positions, grant.output)
            self.give(grant.output)
        elif reply[0] == LOST:
            self.link.lost()
            self.decide_here(self)
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
        self.link.failed()
        self.decide_here(self)

    def late(self, reply: Any) -> None:
        """Undo a grant that came too late, or find out whether there is one."""
        self.releases.top_up_came_late(self.hold, self.plan, self.step, reply)
