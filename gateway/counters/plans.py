"""Finds the plan of a caller on an endpoint, compiled at most once for a snapshot, an epoch and a calendar period."""

from __future__ import annotations

from gateway.counters.link import Link
from gateway.counters.plan import Plan, Standpoint, compile_plan
from policies.budgets import dearest
from policies.catalog import Endpoint, Snapshot
from policies.draws import Indexes, draws_of
from policies.principal import Caller

_MOST = 4_096
"""Some 4 KB each; beyond that all are dropped and made anew when asked for."""
_Key = tuple[str, tuple[str, ...], str | None, str, str | None, int]


class Plans:
    """The plans of one worker."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._indexes: Indexes | None = None
        self._plans: dict[_Key, Plan] = {}

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
            self._plans.clear()
        who, link = caller.principal, self._link
        # The groups are part of it: an identity provider's claims may name others than the database does.
        key = (
            who.id,
            who.groups,
            caller.counted_key if indexes.by_key else None,
            endpoint.id,
            group,
            caller.share_percent,
        )
        plan = self._plans.get(key)
        if plan is None or plan.epoch != link.epoch or link.now_ms() >= plan.valid_until_ms:
            if len(self._plans) >= _MOST:
                self._plans.clear()
            draws = draws_of(indexes, caller, endpoint, group)
            plan = compile_plan(self.standpoint, draws, dearest(endpoint), link.now_ms())
            self._plans[key] = plan
        return plan

    def clear(self) -> None:
        """Forget all: the calendar was wrong."""
        self._plans.clear()


def group_named(snapshot: Snapshot, caller: Caller, named: str) -> str | None:
    """The id of that one of the caller's groups which has this id or name."""
    for each in caller.principal.groups:
        group = snapshot.groups.get(each)
        if each == named or (group is not None and group.name == named):
            return each
    return None
