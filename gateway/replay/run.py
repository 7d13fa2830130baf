"""One replay from end to end: what counted before the period is taken in, then every decision of it is made again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.replay.reading import Books, Recorded
from gateway.reports.period import Period
from gateway.store.history import History
from policies.catalog import Snapshot
from policies.replaying import Replay, Replayed
from policies.windows import Calendar, Unit, edges

_LONGEST_WINDOW = timedelta(days=1, minutes=30)


@dataclass(slots=True)
class Result:
    """What came out."""

    period: Period
    complete_until: datetime
    proposed: bool
    calls: int = 0
    admitted: int = 0
    again: int = 0
    """Decided as they were."""
    other_mode: int = 0
    """Admitted while Redis was away, or before what decides was put on record: counted, and not decided again."""
    unknown: int = 0
    """Of principals or endpoints that the configuration does not have."""
    counted: int = 0
    """Refusals of which there is no record of their own."""
    corrected: int = 0
    differing: list[Replayed] = field(default_factory=list[Replayed])

    @property
    def decided(self) -> int:
        """Calls that were decided again."""
        return self.again + len(self.differing)


async def replay(
    books: Books,
    history: AsyncConnection,
    period: Period,
    policy: Snapshot | None,
    tell: Callable[[int], None] = lambda _: None,
) -> Result:
    """Decide a period again under `policy`, or, without one, under the configuration of each decision."""
    past = History()
    until = await books.complete_until()
    result = Result(period, until, policy is not None, counted=await books.counted(period.start, period.end))
    course = Replay(as_it_was=policy is None)

    async def under(call: Recorded) -> Snapshot:
        if policy is not None:
            return policy
        moment = datetime.fromtimestamp(call.past.at_ms / 1000, UTC)
        return await past.of(history, call.snapshot_version, moment)

    first = await books.first()
    ruling = (
        policy if policy is not None else await past.at(history, max(period.start, first or period.start))
    )
    start_ms = period.start.timestamp() * 1000
    begin = _begin(ruling, period.start, first)
    async for call in books.calls(begin, period.end, present_keys=policy is not None):
        snapshot = await under(call)
        if call.past.at_ms < start_ms:
            course.count(call.past, snapshot)
            continue
        result.calls += 1
        result.admitted += call.past.was.admitted
        if not result.calls % 10_000:
            tell(result.calls)
        if policy is None and not call.past.normal:
            course.count(call.past, snapshot)
            result.other_mode += 1
            continue
        found = course.decide(call.past, snapshot)
        if found.now is None:
            result.unknown += 1
        elif found.differs if policy is None else found.now.admitted is not call.past.was.admitted:
            result.differing.append(found)
        else:
            result.again += 1
    result.corrected = course.corrected
    return result


def _begin(policy: Snapshot, start: datetime, first: datetime | None) -> datetime:
    """From when on calls count for what is decided at the period's start."""
    begin = start - _LONGEST_WINDOW
    at_ms = round(start.timestamp() * 1000)
    for each in (*(limit.window for limit in policy.limits), *(budget.period for budget in policy.budgets)):
        if isinstance(each, Calendar):
            if each.unit is Unit.ONCE:
                return min(begin, first or begin)
            begin = min(begin, datetime.fromtimestamp(edges(each, at_ms)[0] / 1000, UTC))
    return begin if first is None else max(begin, min(first, start))
