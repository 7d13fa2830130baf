"""Set the rate limits of one endpoint all at once, for those who manage it.

Managers change what was set by managers; what an administrator or a file has set stays, whatever they ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from sqlalchemy import and_, or_

from gateway.errors import Forbidden
from gateway.store.changes import Change
from gateway.store.reading import Row
from gateway.store.rules import create_limit, delete_limit, update_limit
from gateway.store.tables.rules import limits
from policies.limits import Metric, ScopeKind

_MINUTE_MS = 60_000
_SCOPES = (
    ScopeKind.USER, ScopeKind.USER_DEFAULT, ScopeKind.GROUP, ScopeKind.GROUP_DEFAULT, ScopeKind.SERVICE_PRINCIPAL,
)  # fmt: skip


class Rule(NamedTuple):
    """So much of a metric a minute, for one subject or for each of its kind."""

    scope: ScopeKind
    subject_id: str | None
    metric: Metric
    amount: int

    @property
    def place(self) -> tuple[ScopeKind, str | None, Metric]:
        """What there is one rule of."""
        return self.scope, self.subject_id, self.metric


async def set_limits(
    change: Change,
    endpoint_id: str,
    wanted: Iterable[Rule],
    sayable: Callable[[Rule], bool],
    *,
    everything: bool,
) -> None:
    """Make the wanted rules hold; those that the caller could have said and did not are deleted.

    `everything`: also what administrators have set; otherwise Forbidden is raised for another amount of theirs.
    """
    there = {_rule(row).place: row for row in await _rows(change, endpoint_id)}
    asked = {rule.place: rule for rule in wanted}
    for place, rule in asked.items():
        row = there.get(place)
        if row is None:
            await create_limit(change, _values(rule, endpoint_id))
        elif row["amount"] != rule.amount or not row["enabled"]:
            _require_theirs(row, everything=everything)
            await update_limit(change, row, {"amount": rule.amount, "enabled": True})
    for place, row in there.items():
        mine = everything or row["by_owner"]
        if place not in asked and mine and row["enabled"] and sayable(_rule(row)):
            await delete_limit(change, row)


def _require_theirs(row: Row, *, everything: bool) -> None:
    if not everything and not row["by_owner"]:
        raise Forbidden(
            f"An administrator has set this limit ({row['id']}: {row['amount']} {row['metric']} a minute);"
            " ask one to change it, or leave it as it is.",
        )


async def _rows(change: Change, endpoint_id: str) -> list[Row]:
    c = limits.c
    return await change.rows(
        limits,
        c.window_kind == "rolling",
        c.window_ms == _MINUTE_MS,
        c.metric.in_((Metric.REQUESTS.value, Metric.TOTAL_TOKENS.value)),
        or_(
            and_(c.scope == ScopeKind.ENDPOINT.value, c.subject_id == endpoint_id),
            and_(c.scope.in_([each.value for each in _SCOPES]), c.endpoint_id == endpoint_id),
        ),
    )


def _rule(row: Row) -> Rule:
    return Rule(ScopeKind(row["scope"]), row["subject_id"], Metric(row["metric"]), row["amount"])


def _values(rule: Rule, endpoint_id: str) -> dict[str, object]:
    return {
        "scope": rule.scope.value,
        "subject_id": rule.subject_id,
        "endpoint_id": None if rule.scope is ScopeKind.ENDPOINT else endpoint_id,
        "metric": rule.metric.value,
        "window_kind": "rolling",
        "window_ms": _MINUTE_MS,
        "amount": rule.amount,
        "by_owner": True,
    }
