"""What an explanation looks like on the wire, and what the ledger adds for a request that was made.

Counters are not kept, so of a past moment it says what could be charged, and the ledger's row what was.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from msgspec import Struct

from policies.catalog import Price
from policies.explanation import Bound, Explanation, differences


class ExplainedRule(Struct, frozen=True, kw_only=True):
    """A limit or budget that binds."""

    id: str
    name: str
    scope: str
    metric: str
    amount: int
    used: int | None
    """Used and reserved now; null for a time that has passed, and while Redis is away."""
    group_id: str | None
    """Of rules that name a group, those of one group must have room for each metric; null: must have room itself."""
    words: str


class ExplainedAside(Struct, frozen=True, kw_only=True):
    """A limit or budget that concerns the principal and does not bind."""

    id: str
    name: str
    why: str


class ExplainedEntity(Struct, frozen=True, kw_only=True):
    """A served entity that may answer."""

    id: str
    name: str
    price_id: str | None
    words: str


class ExplainedAttempt(Struct, frozen=True, kw_only=True):
    """One call upstream that was made."""

    attempt: int
    entity: str
    outcome: str
    reason: str | None
    price_id: str
    cost_nano_usd: int


class Happened(Struct, frozen=True, kw_only=True):
    """What the ledger says of the request."""

    request_id: str
    admitted_at: datetime
    sequence: int
    """Its place in the order of admissions; 0: Redis was away."""
    snapshot_version: int
    status: str
    http_status: int | None
    stopped_by: str | None
    group_id: str | None
    charges: list[dict[str, Any]]
    estimated_prompt_tokens: int
    granted_output_tokens: int
    price_id: str | None
    cost_nano_usd: int
    degraded: str | None
    attempts: list[ExplainedAttempt]
    differences: list[str]
    """Where it departs from the explanation; empty unless something is wrong."""


class Explained(Struct, frozen=True, kw_only=True):
    """The whole decision path."""

    principal_id: str
    principal: str
    endpoint_id: str
    endpoint: str
    key_id: str | None
    at: datetime | None
    """The moment that it is about; null for now."""
    snapshot_version: int
    admits: bool
    """Whether a small call would be admitted; of a past moment: as far as the counters, which are not kept, allowed."""
    decided_by: str
    permission: str | None
    """The level that is held."""
    permission_rule: str
    grants: list[str]
    groups: list[str]
    rules: list[ExplainedRule]
    put_aside: list[ExplainedAside]
    others: int
    """How many more limits and budgets there are, all of somebody else."""
    charged_group: str | None
    """Id of the group that would be charged."""
    entities: list[ExplainedEntity]
    then: Happened | None
    """For a `request_id`: what was decided and charged."""
    text: list[str]
    """All of it in words, line by line."""


def happened(found: Explanation, row: Mapping[str, Any], tried: list[Mapping[str, Any]]) -> Happened:
    """What the ledger's rows say, and where they depart from the explanation."""
    return Happened(
        request_id=str(row["request_id"]),
        attempts=[
            ExplainedAttempt(
                attempt=each["attempt"],
                entity=each["entity_name"],
                outcome=each["outcome"],
                reason=each["reason"],
                price_id=each["price_id"],
                cost_nano_usd=each["cost_nano_usd"],
            )
            for each in tried
        ],
        differences=differences(
            found,
            charged={each["limit"]: each["reserved"] for each in row["charges"]},
            group_id=row["group_id"],
            degraded=row["degraded"] is not None,
        ),
        **{
            name: row[name]
            for name in Happened.__struct_fields__
            if name not in ("request_id", "attempts", "differences")
        },
    )


def happened_lines(then: Happened) -> list[str]:
    """The same in words."""
    reserved = f"{then.estimated_prompt_tokens} input and {then.granted_output_tokens} output tokens"
    told = [
        "What happened",
        f"  request {then.request_id}, number {then.sequence} under configuration {then.snapshot_version}",
        f"  admitted {then.admitted_at.isoformat()}, reserved {reserved}",
    ]
    if then.degraded:
        told.append(f"  Redis was away: admitted under mode {then.degraded}")
    told += [
        f"  charged {each['limit']}: {each['reserved']} {each['metric']}, then {each['actual']}"
        for each in then.charges
    ]
    told += [
        f"  try {each.attempt}: {each.entity}, {each.outcome}, price {each.price_id or 'none'}"
        for each in then.attempts
    ]
    ended = f"  ended {then.status}" + (f" by {then.stopped_by}" if then.stopped_by else "")
    told.append(f"{ended}, cost {then.cost_nano_usd} nano-dollars")
    told += [f"  NOT AS EXPLAINED: {each}" for each in then.differences]
    return told


def shown(found: Explanation, at: datetime | None, then: Happened | None, text: list[str]) -> Explained:
    """The answer to all of it."""
    who = found.caller.principal
    return Explained(
        principal_id=who.id,
        principal=who.name,
        endpoint_id=found.endpoint.id,
        endpoint=found.endpoint.name,
        key_id=found.caller.key_id,
        at=at,
        snapshot_version=found.snapshot.version,
        admits=found.admits,
        decided_by=found.decided_by,
        permission=None if found.level is None else found.level.name,
        permission_rule=found.permission.rule,
        grants=list(found.grants),
        groups=[each.words for each in found.groups],
        rules=[_rule(each) for each in found.bound],
        put_aside=[ExplainedAside(id=each.id, name=each.name, why=each.why) for each in found.put_aside],
        others=found.others,
        charged_group=found.group_id,
        entities=[
            ExplainedEntity(
                id=each.entity.id, name=each.entity.name, price_id=_price(each.entity.price), words=each.words
            )
            for each in found.candidates
        ],
        then=then,
        text=text,
    )


def _rule(bound: Bound) -> ExplainedRule:
    draw = bound.draw
    return ExplainedRule(
        id=draw.limit_id,
        name=draw.name,
        scope=draw.scope.value,
        metric=draw.metric.value,
        amount=draw.capacity,
        used=bound.used,
        group_id=draw.group_id if draw.alternatives else None,
        words=bound.words,
    )


def _price(price: Price) -> str | None:
    return price.id or None
