"""A row of one rule (limit, budget, issuer, pool, provision) as the value that policies decide with.

What makes no sense raises and is never guessed: a snapshot with half of a rule would let through what the rule forbids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from policies.budgets import Budget
from policies.limits import Limit, Metric, Mode, ScopeKind
from policies.principal import PrincipalKind
from policies.throughput import Pool, Provision
from policies.tokens import Family, Issuer
from policies.windows import Calendar, Rolling, Unit, Window


def pool_of(row: Mapping[str, Any]) -> Pool:
    """The pool as policies decide with it."""
    return Pool(
        id=row["id"],
        name=row["name"],
        replicas=row["replicas"],
        tokens_per_second=row["tokens_per_second"],
        slots=row["slots"],
        unit_tokens_per_second=row["unit_tokens_per_second"],
        queue=row["queue"],
        queue_ms=row["queue_ms"],
    )


def provision_of(row: Mapping[str, Any], pool: Pool) -> Provision:
    """A provision of the pool as policies decide with it."""
    return Provision(
        id=row["id"],
        name=row["name"],
        subject_id=row["subject_id"],
        rate=row["units"] * pool.unit_tokens_per_second,
        first_token_ms=row["first_token_ms"],
    )


def window_of(row: Mapping[str, Any]) -> Window | None:
    """The window of a limit's row; None for concurrent requests."""
    match row["window_kind"]:
        case "rolling":
            return Rolling(row["window_ms"])
        case "calendar":
            return Calendar(Unit(row["window_unit"]), row["time_zone"])
        case _:
            return None


def limit_of(row: Mapping[str, Any]) -> Limit:
    """A limit as policies decide with it; raises ValueError for one that makes no sense."""
    return Limit(
        id=row["id"],
        scope=ScopeKind(row["scope"]),
        metric=Metric(row["metric"]),
        window=window_of(row),
        amount=row["amount"],
        subject_id=row["subject_id"],
        endpoint_id=row["endpoint_id"],
        mode=Mode(row["mode"]),
        name=row["name"],
    )


def budget_of(row: Mapping[str, Any], now: datetime, edges: list[datetime]) -> Budget:
    """A budget as policies decide with it, an increase that is in force included; its end goes to `edges`."""
    amount = row["amount_nano_usd"]
    if row["increase_until"] is not None and row["increase_until"] > now:
        amount += row["increase_nano_usd"]
        edges.append(row["increase_until"])
    return Budget(
        id=row["id"],
        scope=ScopeKind(row["scope"]),
        period=Calendar(Unit(row["period"]), row["time_zone"]),
        nano_usd=amount,
        subject_id=row["subject_id"],
        endpoint_id=row["endpoint_id"],
        thresholds=tuple(row["thresholds_percent"]),
        mode=Mode(row["mode"]),
        name=row["name"],
    )


def issuer_of(row: Mapping[str, Any]) -> Issuer:
    """An issuer as policies decide with it."""
    keys = row["public_keys"]
    return Issuer(
        id=row["id"],
        name=row["name"],
        issuer=row["issuer"],
        audience=row["audience"],
        family=Family(row["family"]),
        jwks_uri=row["jwks_uri"],
        public_keys=None if keys is None else json.dumps(keys, sort_keys=True),
        sealed_secret=row["secret_sealed"],
        principal_claim=row["principal_claim"],
        name_claim=row["name_claim"],
        groups_claim=row["groups_claim"],
        kind=PrincipalKind(row["kind"]),
        creates=row["create_principals"],
        replaces_groups=row["replace_groups"],
        max_age_seconds=row["max_age_seconds"],
        leeway_seconds=row["leeway_seconds"],
        planes=frozenset(row["planes"]),
    )
