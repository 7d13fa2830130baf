"""Build the one immutable snapshot of the configuration from its rows.

Pure work on values, done in a thread. A row that cannot be understood fails the whole build, and workers keep the
snapshot they have: half a configuration could grant what the other half forbids.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from gateway.store.rule_values import budget_of, issuer_of, limit_of, pool_of, provision_of
from gateway.store.serving import Rows, accounts_of, endpoints_of, prices_at
from policies.catalog import Snapshot
from policies.permissions import Level
from policies.principal import Group, Principal, PrincipalKind, Role
from policies.throughput import Throughput


@dataclass(frozen=True, slots=True)
class ConfigurationRows:
    """All rows of one version of the configuration, table by table."""

    version: int
    principals: Rows
    groups: Rows
    memberships: Rows
    roles: Rows
    endpoints: Rows
    served_entities: Rows
    grants: Rows
    prices: Rows
    limits: Rows
    budgets: Rows
    issuers: Rows
    providers: Rows = field(default_factory=list[Mapping[str, Any]])
    provider_secrets: Rows = field(default_factory=list[Mapping[str, Any]])
    """Sealed; of the present only. The newest version of each provider first."""
    throughput_pools: Rows = field(default_factory=list[Mapping[str, Any]])
    throughput_provisions: Rows = field(default_factory=list[Mapping[str, Any]])


@dataclass(frozen=True, slots=True)
class Built:
    """A snapshot, and the moment at which it changes by itself because a price or an increase begins or ends."""

    snapshot: Snapshot
    stale_at: datetime | None


def build(rows: ConfigurationRows, now: datetime) -> Built:
    """The snapshot as it holds at `now`."""
    within = _memberships(rows.memberships)
    edges: list[datetime] = []
    prices = prices_at(rows.prices, now, edges)
    accounts = accounts_of(rows.providers, rows.provider_secrets, now, edges)
    managers: dict[str, set[str]] = {}
    roles: dict[str, set[Role]] = {}
    for row in rows.roles:
        if row["role"] == "group_manager":
            managers.setdefault(row["group_id"], set()).add(row["grantee_id"])
        else:
            roles.setdefault(row["grantee_id"], set()).add(Role(row["role"]))
    grants: dict[str, dict[str, Level]] = {}
    for row in rows.grants:
        grants.setdefault(row["endpoint_id"], {})[row["grantee_id"]] = Level[row["level"]]
    snapshot = Snapshot(
        version=rows.version,
        principals={row["id"]: _principal(row, within, roles) for row in rows.principals},
        groups={
            row["id"]: Group(
                id=row["id"],
                name=row["name"],
                parents=tuple(sorted(within.get(row["id"], ()))),
                managers=frozenset(managers.get(row["id"], ())),
                roles=frozenset(roles.get(row["id"], ())),
            )
            for row in rows.groups
        },
        endpoints=endpoints_of(rows.endpoints, rows.served_entities, prices, accounts),
        grants=grants,
        limits=tuple(limit_of(row) for row in rows.limits if row["enabled"]),
        budgets=tuple(budget_of(row, now, edges) for row in rows.budgets if row["enabled"]),
        issuers={row["issuer"]: issuer_of(row) for row in rows.issuers if row["enabled"]},
        identities={
            (row["issuer"], row["subject"]): row["id"] for row in rows.principals if row["issuer"] is not None
        },
        group_ids={row["name"].lower(): row["id"] for row in rows.groups},
        local_groups=frozenset(row["id"] for row in rows.groups if row["local_only"]),
        throughput=_throughput(rows),
    )
    return Built(snapshot, min(edges, default=None))


def all_groups(member: str, within: Mapping[str, Iterable[str]]) -> set[str]:
    """Every group that a member belongs to, nested ones followed."""
    found: set[str] = set()
    ahead = list(within.get(member, ()))
    while ahead:
        group = ahead.pop()
        if group not in found:
            found.add(group)
            ahead.extend(within.get(group, ()))
    return found


def _memberships(rows: Rows) -> dict[str, set[str]]:
    within: dict[str, set[str]] = {}
    for row in rows:
        within.setdefault(row["member_id"], set()).add(row["group_id"])
    return within


def _principal(
    row: Mapping[str, Any], within: Mapping[str, set[str]], roles: Mapping[str, set[Role]]
) -> Principal:
    groups = sorted(all_groups(row["id"], within))
    held = set(roles.get(row["id"], ()))
    for group in groups:
        held |= roles.get(group, set())
    not_before = row["tokens_not_before"]
    return Principal(
        id=row["id"],
        kind=PrincipalKind(row["kind"]),
        name=row["name"],
        groups=tuple(groups),
        roles=frozenset(held),
        active=row["active"],
        # Tokens tell whole seconds: one of the second in which they were ended is refused with the others.
        tokens_not_before=0 if not_before is None else math.ceil(not_before.timestamp()),
        own_roles=frozenset(roles.get(row["id"], ())),
    )


def _throughput(rows: ConfigurationRows) -> Throughput | None:
    """What is provisioned for those who are still there; None where nothing is, and every call goes as it comes."""
    there = {row["id"] for row in (*rows.endpoints, *rows.groups)}
    booked = [row for row in rows.throughput_provisions if row["subject_id"] in there]
    if not rows.throughput_pools or not booked:
        return None
    pool = pool_of(rows.throughput_pools[0])
    return Throughput.made(pool, (provision_of(row, pool) for row in booked))
