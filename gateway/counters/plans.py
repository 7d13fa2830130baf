"""Finds the plan of a caller on an endpoint: of two parts that are each compiled once, joined when they meet.

There are as many parts as there are callers and endpoints, not as many as pairs of them. Where a rule binds callers
on one endpoint alone, its pairs have plans of their own. All holds for a snapshot, an epoch and a calendar period.
"""

from __future__ import annotations

from gateway.counters.link import Link
from gateway.counters.plan import Joiner, Plan, Standpoint
from gateway.counters.remembered import Kept, Remembered
from gateway.counters.taps import Part, part_of
from policies.budgets import Rates, dearest
from policies.catalog import Endpoint, Snapshot
from policies.draws import Indexes, caller_draws, draws_of, endpoint_draws
from policies.principal import Caller

_CALLERS = 32_768
"""2 KB each."""
_PAIRS = 4_096
_Who = tuple[str, tuple[str, ...], str | None, str | None, int, int | None]


class _OfEndpoint:
    """What everyone on an endpoint takes from, and what a call of it may cost."""

    __slots__ = ("paired", "part", "price", "rates")

    def __init__(self, part: Part, rates: Rates, *, paired: bool) -> None:
        self.part = part
        self.rates = rates
        self.price = None if rates.free else rates.output_per_token
        """All that callers' parts look at: what their budgets pay for a token; None where they pay for nothing."""
        self.paired = paired
        """Whether a rule binds callers here alone."""


class _OfCaller(Kept):
    """What a caller takes from wherever it calls, and the plan where it called last."""

    __slots__ = ("last", "part", "there")

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.part = part
        self.there: Part | None = None
        self.last: Plan | None = None


class _OfPair(Kept):
    """The plan of a caller on an endpoint on which a rule binds callers alone."""

    __slots__ = ("plan",)

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan


class Plans:
    """The plans of one worker."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._joiner = Joiner(self.standpoint)
        self._indexes: Indexes | None = None
        self._endpoints: dict[tuple[str, int], _OfEndpoint] = {}
        self._callers: Remembered[_Who, _OfCaller] = Remembered(_CALLERS)
        self._pairs: Remembered[tuple[_Who, str], _OfPair] = Remembered(_PAIRS)

    @property
    def standpoint(self) -> Standpoint:
        """What calls carry now."""
        link = self._link
        return Standpoint(link.scripts, link.keys, link.epoch, link.worker_id)

    def find(self, snapshot: Snapshot, caller: Caller, endpoint: Endpoint, group: str | None) -> Plan:
        """The plan as of now; `group` is the id of the group that is tried first."""
        indexes = self._indexes
        if indexes is None or indexes.snapshot is not snapshot:
            indexes = self._indexes = Indexes.of(snapshot)
            self.clear()
        now_ms, share = self._link.now_ms(), caller.share_percent
        here = self._endpoints.get((endpoint.id, share))
        if here is None or now_ms >= here.part.shape.valid_until_ms:
            here = self._endpoints[endpoint.id, share] = self._endpoint(indexes, endpoint, share, now_ms)
        principal = caller.principal
        # The groups are part of it: an identity provider's claims may name others than the database does.
        who = (
            principal.id,
            principal.groups,
            caller.counted_key if indexes.by_key else None,
            group,
            share,
            here.price,
        )
        known = self._callers.get(who)
        if known is None or now_ms >= known.part.shape.valid_until_ms:
            draws = caller_draws(indexes, caller, group, None, money=here.price is not None)
            known = _OfCaller(part_of(self._link.keys, draws, here.rates, now_ms))
            self._callers.put(who, known)
        if here.paired:
            pair = self._pairs.get((who, endpoint.id))
            if (
                pair is None
                or pair.plan.epoch != self._link.epoch
                or now_ms >= pair.plan.frame.valid_until_ms
            ):
                pair = _OfPair(self._pair(indexes, caller, endpoint, group, here, known.part, now_ms))
                self._pairs.put((who, endpoint.id), pair)
            return pair.plan
        plan = known.last
        if plan is None or known.there is not here.part or plan.epoch != self._link.epoch:
            plan = known.last = self._join(here.rates, here.part, known.part)
            known.there = here.part
        return plan

    def clear(self) -> None:
        """Forget all: the rules are others, or the calendar was wrong."""
        self._endpoints.clear()
        self._callers.clear()
        self._pairs.clear()

    # private

    def _endpoint(self, indexes: Indexes, endpoint: Endpoint, share: int, now_ms: int) -> _OfEndpoint:
        rates = dearest(endpoint)
        draws = endpoint_draws(indexes, endpoint, share, money=not rates.free)
        part = part_of(self._link.keys, draws, rates, now_ms)
        return _OfEndpoint(part, rates, paired=endpoint.id in indexes.pairs)

    def _pair(
        self,
        indexes: Indexes,
        caller: Caller,
        endpoint: Endpoint,
        group: str | None,
        here: _OfEndpoint,
        wherever: Part,
        now_ms: int,
    ) -> Plan:
        draws = caller_draws(indexes, caller, group, endpoint.id, money=here.price is not None)
        if not draws:
            return self._join(here.rates, here.part, wherever)
        if wherever.shape.has_alternatives:
            # Alternatives come last, those of one group side by side: the parts would have to be taken apart.
            draws = draws_of(indexes, caller, endpoint, group)
            return self._join(here.rates, part_of(self._link.keys, draws, here.rates, now_ms))
        alone = part_of(self._link.keys, draws, here.rates, now_ms)
        return self._join(here.rates, here.part, wherever, alone)

    def _join(self, rates: Rates, *parts: Part) -> Plan:
        if self._joiner.standpoint.epoch != self._link.epoch:
            self._joiner = Joiner(self.standpoint)
        return self._joiner.join(rates, *parts)


def group_named(snapshot: Snapshot, caller: Caller, named: str) -> str | None:
    """The id of that one of the caller's groups which has this id or name."""
    for each in caller.principal.groups:
        group = snapshot.groups.get(each)
        if each == named or (group is not None and group.name == named):
            return each
    return None
