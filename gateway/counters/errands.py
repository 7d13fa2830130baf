"""What a worker has to tell the settlement's script: settlements, reports, questions; what each says in an epoch.

An errand says what is right in the epoch in which it is sent, however often it is sent and whatever was lost before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from gateway.counters.corrections import corrections
from gateway.counters.frames import ADMITTED, HEAD_BYTES, LOST, Entry
from gateway.counters.link import Link
from gateway.counters.taps import ROLLING, lasts
from gateway.spool.records import Charge

SHORTEST_REBUILT_MS = 3_600_000
"""Sliding windows of this length and longer come back from the ledger."""
SETTLE, VOID, ASK, NEVER_HELD, STILL_HELD, REPORT = range(6)
"""What the settlement's script is asked for."""


class Home(Protocol):
    """Where errands wait."""

    @property
    def link(self) -> Link:
        """By which they leave."""
        ...

    def answered(self, errand: Errand, reply: Any) -> None:
        """A reply, in time or late; None where nobody knows."""
        ...

    def taken(self, errand: Errand) -> None:
        """It is done: it need not wait any more."""
        ...


class Errand(ABC):
    """One call of the settlement script."""

    __slots__ = ("home", "in_flight", "memory", "overdue", "sent_in")
    urgent = False
    """Whether it goes before others: what they take back must have been added first."""

    def __init__(self, home: Home, memory: bytes) -> None:
        self.home = home
        self.memory = memory
        self.in_flight = False
        self.overdue = False
        self.sent_in = ""
        """The epoch in which it was sent last, whatever became of that."""

    @property
    def mode(self) -> int:
        """What the script is asked for."""
        return SETTLE

    @abstractmethod
    def body(self, epoch: str) -> tuple[Sequence[str], Sequence[Entry]]:
        """Keys and entries as of this epoch."""

    @property
    def lasting(self) -> bool:
        """Whether Redis keeps a hold that is to end, also where nothing is to be corrected."""
        return False

    def done(self, reply: bytes) -> None:  # noqa: B027 - most have nothing to do then
        """Redis took it."""

    # Asked

    def answered(self, reply: Any) -> None:
        self.home.answered(self, reply)

    def failed(self) -> None:
        # Stays in flight: in an ordered stream the answer comes before anything else can, or the stream breaks.
        self.home.link.failed()

    def late(self, reply: Any) -> None:
        self.home.answered(self, reply)


class Settlement(Errand):
    """A request has ended with this usage."""

    __slots__ = ("charges", "epoch", "holds", "local", "number", "request_id", "undo", "usage")

    def __init__(
        self,
        home: Home,
        memory: bytes,
        charges: Sequence[Charge],
        local: Sequence[Charge],
        usage: tuple[int, int, int],
        epoch: str,
        number: int,
        holds: dict[str, Any] | None = None,
        request_id: str = "",
        *,
        undo: bool = False,
    ) -> None:
        # As Errand's own, which a call saved: there is one of these for each request.
        self.home = home
        self.memory = memory
        self.in_flight = self.overdue = False
        self.sent_in = ""
        self.charges = charges
        self.local = local
        self.usage = usage
        self.epoch = epoch
        self.number = number
        """Of the settlement in the spool; 0 where the ledger is to have no row of it."""
        self.holds = holds
        """What loses the admission `request_id` once Redis took this; None where it is to be kept."""
        self.request_id = request_id
        self.undo = undo
        """The admission itself never was: the count of requests is given back too."""

    def booked(self, cut: int) -> bool:
        """Whether the ledger's sums, from which an epoch with this cut began, hold it already."""
        return 0 < self.number <= cut

    def body(self, epoch: str) -> tuple[Sequence[str], Sequence[Entry]]:
        """Corrections of what this epoch's counters have of it: charged in it, adopted into it, or reported to it."""
        if self.epoch == epoch and not self.local:
            return corrections(self.charges, *self.usage, undo=self.undo)
        booked = self.booked(self.home.link.cut)
        charges = self.charges
        if self.epoch != epoch:
            # Sliding windows of the old epoch are gone: nothing was charged in this one, and a refund would take from
            # others.
            charges = [
                msgspec.structs.replace(each, fixed=0) if each.kind == "r" else each
                for each in charges
                if not booked or each.kind in ("n", "i")
            ]
        local = self.local
        if not booked:
            return corrections([*charges, *local], *self.usage, undo=self.undo)
        # Periods were not adopted. Windows that came back from the sums would count a second time what the report
        # brought, so all of it is taken back.
        known = [each for each in local if each.kind == "r" and each.window_ms >= SHORTEST_REBUILT_MS]
        rest = [each for each in local if each.kind != "p" and each not in known]
        keys, entries = corrections([*charges, *rest], *self.usage, undo=self.undo)
        more_keys, more_entries = corrections(known, 0, 0, 0, undo=True)
        return [*keys, *more_keys], [*entries, *more_entries]

    @property
    def mode(self) -> int:
        """Sent again, it ends the hold that Redis keeps of it, or was taken before: also once that is forgotten."""
        if self.epoch != self.home.link.epoch:
            return SETTLE
        if not self.charges:
            # A grant that came late may be held under the same name.
            return NEVER_HELD
        return STILL_HELD if self.sent_in == self.epoch and self.lasting else SETTLE

    @property
    def lasting(self) -> bool:
        """As the reservation's script has it."""
        return any(each.metric != "requests" and lasts(each.kind, each.window_ms) for each in self.charges)

    def answered(self, reply: Any) -> None:
        if type(reply) is bytes and reply[0] != LOST:
            # As the outbox does with any errand that was taken, two calls saved: there is one of these for each request.
            self.in_flight = False
            self.home.taken(self)
            if self.holds is not None:
                self.holds.pop(self.request_id, None)
        else:
            self.home.answered(self, reply)

    def done(self, reply: bytes) -> None:
        """Nothing is held any more."""
        if self.holds is not None:
            self.holds.pop(self.request_id, None)


class Report(Errand):
    """What was charged here while Redis was away."""

    __slots__ = ("entries", "epoch", "keys")
    urgent = True

    def __init__(self, home: Home, memory: bytes, keys: Sequence[str], entries: Sequence[Entry]) -> None:
        super().__init__(home, memory)
        self.keys = keys
        self.entries = entries
        self.epoch = home.link.epoch

    @property
    def mode(self) -> int:
        """Remembered for longer than a settlement, since no hold tells whether it was taken."""
        return REPORT

    def body(self, epoch: str) -> tuple[Sequence[str], Sequence[Entry]]:
        """As they are; in an epoch that began since, without what was adopted into it."""
        if epoch == self.epoch:
            return self.keys, self.entries
        kept = [number for number, entry in enumerate(self.entries) if entry[0] == ROLLING]
        return [self.keys[each] for each in kept], [self.entries[each] for each in kept]


class Void(Errand):
    """Nobody knows whether a request was admitted: see to it that nothing of it stays."""

    __slots__ = ("epoch", "granted")

    def __init__(self, home: Home, memory: bytes, epoch: str, granted: Callable[[bytes], None]) -> None:
        super().__init__(home, memory)
        self.epoch = epoch
        self.granted = granted

    @property
    def mode(self) -> int:
        """Whatever of it is still under way is not to take effect."""
        return VOID

    def body(self, epoch: str) -> tuple[Sequence[str], Sequence[Entry]]:
        """No entries: the memory alone is asked."""
        return (), ()

    def done(self, reply: bytes) -> None:
        """It had been admitted: the grant is handed over to be released."""
        if reply[0] == ADMITTED and self.epoch == self.home.link.epoch:
            self.granted(reply[HEAD_BYTES:])


class Inquiry(Void):
    """Nobody knows whether a top-up was granted: ask for the latest grant."""

    __slots__ = ()

    @property
    def mode(self) -> int:
        """What is under way may take effect."""
        return ASK
