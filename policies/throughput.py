"""Who may have the engine's throughput: what was provisioned first, and what nobody uses for everybody.

A call that its provision covers goes at once and before others; any other call is lent a slot that is free, and waits
while none is. What runs is never stopped: what is lent is taken back by not being lent again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import exp

BURST_MS = 4_000
"""How much of its rate a provision that was idle may use at once."""
WINDOW_MS = 1_000
"""How long after its last call a provision still counts as in use, at least."""
LONGEST_WINDOW_MS = 5_000
"""The same, at most."""
_PAUSES = 3
"""So many of its usual pauses without a call, and it is idle rather than between two calls."""
_LATE_SHARE = 0.04
"""How many calls may miss their target before less is lent: a little fewer than the twentieth that it allows."""
_HARSHNESS = 0.7
"""One call that is late halves what is lent; two dozen that are not bring it back."""


class Lane(StrEnum):
    """How a call came by its slot of the engine."""

    COVERED = "covered"
    """Its provision covered it when it came."""
    AWAITED = "awaited"
    """It came faster than its provision allows, and waited until it was covered."""
    LENT = "lent"
    """Nobody needed the slot."""


@dataclass(frozen=True, slots=True)
class Pool:
    """What the local engine can do, all of its replicas together; whose models they are does not matter."""

    id: str
    name: str
    replicas: int
    tokens_per_second: int
    """Of one replica, prompts and answers together, with all of its slots in use."""
    slots: int
    """Calls that one replica answers at once at that rate; more would only make each slower."""
    unit_tokens_per_second: int = 1
    """What provisions are counted in."""
    queue: int = 256
    """Calls that may wait for a slot over all workers."""
    queue_ms: int = 10_000
    """How long one may wait."""

    @property
    def capacity(self) -> int:
        """Tokens a second of all replicas."""
        return self.replicas * self.tokens_per_second


@dataclass(frozen=True, slots=True)
class Provision:
    """A rate that is kept for an endpoint's calls, or for a group's."""

    id: str
    name: str
    subject_id: str
    rate: int
    """Tokens a second."""
    first_token_ms: int | None = None
    """What 95 % of the first tokens of covered streams should come within."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """The pool and what of it is provisioned, in ascending order of id."""

    pool: Pool
    provisions: tuple[Provision, ...]
    of_subject: Mapping[str, tuple[Provision, ...]] = field(default_factory=dict[str, tuple[Provision, ...]])

    @classmethod
    def made(cls, pool: Pool, provisions: Iterable[Provision]) -> Throughput:
        """With the provisions of each endpoint and group at hand."""
        ordered = tuple(sorted(provisions, key=lambda each: each.id))
        of_subject: dict[str, tuple[Provision, ...]] = {}
        for each in ordered:
            of_subject[each.subject_id] = (*of_subject.get(each.subject_id, ()), each)
        return cls(pool, ordered, of_subject)

    def of(self, endpoint_id: str, groups: Iterable[str]) -> tuple[Provision, ...]:
        """Those that may cover a call: the endpoint's, then those of the caller's groups."""
        found = self.of_subject
        return sum((found[each] for each in (endpoint_id, *groups) if each in found), ())

    @property
    def rate(self) -> int:
        """All that is provisioned, in tokens a second."""
        return sum(each.rate for each in self.provisions)


@dataclass(frozen=True, slots=True)
class Overbooked:
    """Why a booking does not fit, with the arithmetic."""

    capacity: int
    booked: int
    asked: int

    @property
    def message(self) -> str:
        """For whoever asked."""
        free = self.capacity - self.booked
        return (
            f"{self.booked} of the engine's {self.capacity} tokens/s are provisioned to others, which leaves {max(0, free)};"
            f" {self.asked} were asked for: {self.booked} + {self.asked} = {self.booked + self.asked}"
            f" > {self.capacity}."
        )


def booking(pool: Pool, others: Iterable[int], asked: int) -> Overbooked | None:
    """Whether a rate fits beside the others' in tokens a second; None where it does."""
    booked = sum(others)
    return Overbooked(pool.capacity, booked, asked) if booked + asked > pool.capacity else None


@dataclass(frozen=True, slots=True)
class Bucket:
    """What a provision has left. It covers a call while there is anything; what the call takes beyond that is a debt."""

    tokens: float
    at_ms: int

    @classmethod
    def full(cls, rate: float, now_ms: int) -> Bucket:
        """Of a provision that was not used for long."""
        return cls(rate * BURST_MS / 1000, now_ms)

    def filled(self, rate: float, now_ms: int) -> Bucket:
        """With what has come in since; a clock that went back brings nothing."""
        elapsed = max(0, now_ms - self.at_ms)
        return Bucket(
            min(self.tokens + rate * elapsed / 1000, rate * BURST_MS / 1000), max(now_ms, self.at_ms)
        )

    def charged(self, tokens: float) -> Bucket:
        """Less what a call takes, or more where it took less than was thought."""
        return Bucket(self.tokens - tokens, self.at_ms)

    @property
    def covers(self) -> bool:
        """Whether a call may go."""
        return self.tokens > 0

    def covers_in_ms(self, rate: int) -> int:
        """When it will cover a call, if nothing is charged until then."""
        # Floats may fall short of a whole millisecond by a little, and of covering with it.
        return 0 if self.covers else int(-self.tokens * 1000 / rate + 1e-6) + 1


def unreserved(slots: int, reserved: int, capacity: int) -> int:
    """Slots that belong to no provision: they are lent whatever provisions miss their target."""
    return max(0, slots - -(-slots * min(reserved, capacity) // capacity))


def most_lent(slots: int, spare: int, covered: int, limit: float) -> int:
    """How many calls may run on lent slots beside so many that are covered; `spare` are unreserved."""
    return max(spare, min(slots - covered, int(limit)))


def limit_after(limit: float, slots: int, late: int, timely: int) -> float:
    """The limit on lending after so many first tokens that missed their target and so many that did not.

    It comes to rest where one in 25 is late, so that the target holds for 95 % with a little room; never below one.
    """
    moved = _HARSHNESS * (_LATE_SHARE * timely - (1 - _LATE_SHARE) * late)
    return min(float(slots), max(1.0, limit * exp(max(-50.0, min(50.0, moved)))))


def pause_after(usual_ms: float, pause_ms: float) -> float:
    """The usual pause between calls with a target after one more; 0: none is known yet. An absence is no pause."""
    if pause_ms > LONGEST_WINDOW_MS:
        return usual_ms
    return 0.75 * usual_ms + 0.25 * pause_ms if usual_ms else pause_ms


def window_ms(usual_ms: float) -> float:
    """How long after its last call one whose pauses are usually so long still counts as in use."""
    return max(WINDOW_MS, min(LONGEST_WINDOW_MS, _PAUSES * usual_ms))


def limit_now(limit: float, slots: int, quiet_ms: int, usual_ms: float = 0.0) -> float:
    """The limit that holds so long after the last call with a target: all is lent where nobody would notice."""
    return float(slots) if quiet_ms >= window_ms(usual_ms) else limit


def parts(most: int, demands: Sequence[int], turn: int = 0) -> list[int]:
    """Each worker's part of the slots to lend, by what each could use; together they are exactly `most`.

    None gets less than it could use while another has more than that: what is left over is spread. Of what cannot be
    divided each gets its share as `turn` goes on.
    """
    given = [0] * len(demands)
    left = most
    hungry = sorted(range(len(demands)), key=lambda at: demands[at])
    while hungry and demands[hungry[0]] <= left // len(hungry):
        # The least hungry first: what it does not need is there for the others.
        at = hungry.pop(0)
        given[at] = demands[at]
        left -= given[at]
    for at in hungry:
        given[at] = left // len(hungry)
    left -= sum(given[at] for at in hungry)
    order = [at for at in range(len(demands)) if given[at] < demands[at]] or list(range(len(demands)))
    for number in range(left):
        given[order[(turn + number) % len(order)]] += 1
    return given
