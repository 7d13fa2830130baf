"""The whole decision path of a call in words: who asks, what permits it, which rules bind, what pays, what answers.

Nothing is decided a second time here: every statement comes from the function that decides calls, and why a rule does
not bind is found by asking that function again without the rule that may stand in its way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from policies.catalog import Endpoint, Price, ServedEntity, Snapshot
from policies.decision import Decision, Deny
from policies.explanation_rules import PutAside, set_aside
from policies.limits import Draw, Metric, Mode, charged_group, group_words, window_words
from policies.money import usd_of
from policies.permissions import Level, granted, may
from policies.principal import Caller
from policies.routing import route


@dataclass(frozen=True, slots=True)
class GroupNote:
    """A group of the caller and how it came to be in it."""

    id: str
    name: str
    words: str


@dataclass(frozen=True, slots=True)
class Bound:
    """A limit or budget that a call takes from; `used` is None where the counters were not asked."""

    draw: Draw
    used: int | None
    words: str

    @property
    def has_room(self) -> bool:
        """Whether anything fits at all: how much a call needs is not known here."""
        return self.draw.mode is Mode.OBSERVE or (self.used or 0) < self.draw.capacity


@dataclass(frozen=True, slots=True)
class Candidate:
    """A served entity that may answer, with the price version that its tokens would cost."""

    entity: ServedEntity
    words: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything that decides a call of `caller` on `endpoint` under one snapshot."""

    snapshot: Snapshot
    caller: Caller
    endpoint: Endpoint
    groups: tuple[GroupNote, ...]
    level: Level | None
    permission: Decision
    grants: tuple[str, ...]
    """Every grant and role that reaches the caller, the one that decided first."""
    bound: tuple[Bound, ...]
    put_aside: tuple[PutAside, ...]
    others: int
    """How many more limits and budgets there are, all of somebody else."""
    group_id: str | None
    """The group that would be charged; None where none is."""
    candidates: tuple[Candidate, ...]
    admits: bool
    decided_by: str
    """The rule that refuses, or what permits."""


def explain(
    snapshot: Snapshot,
    caller: Caller,
    endpoint: Endpoint,
    draws: Sequence[Draw],
    used: Sequence[int] | None = None,
    *,
    credential: Deny | None = None,
) -> Explanation:
    """Explain a call: `draws` are those that the admission would use, `used` what their counters hold.

    `credential` is why the key is not taken, where it is not.
    """
    level, _ = granted(snapshot, caller, endpoint)
    permission = _permission(snapshot, caller, endpoint) if credential is None else credential
    bound = tuple(
        _bound(snapshot, draw, None if used is None else used[number]) for number, draw in enumerate(draws)
    )
    taken, full = _taken(bound)
    if isinstance(permission, Deny):
        admits, decided_by = False, f"{permission.rule}: {permission.reason}"
    elif full is not None:
        admits, decided_by = False, f"no room: {full.words}"
    else:
        admits, decided_by = True, permission.rule
    aside, others = set_aside(snapshot, caller, endpoint, draws)
    return Explanation(
        snapshot=snapshot,
        caller=caller,
        endpoint=endpoint,
        groups=_groups(snapshot, caller),
        level=level,
        permission=permission,
        grants=_grants(snapshot, caller, endpoint),
        bound=bound,
        put_aside=aside,
        others=others,
        group_id=charged_group(each.draw for each in taken),
        candidates=_candidates(endpoint),
        admits=admits,
        decided_by=decided_by,
    )


def _permission(snapshot: Snapshot, caller: Caller, endpoint: Endpoint) -> Decision:
    who = caller.principal
    if not who.active:
        reason = f"{who.name!r} is not active, so none of its keys and tokens is taken."
        return Deny("invalid_api_key", reason, "inactive principal")
    if "data" not in caller.planes:
        return Deny(
            "permission_denied",
            "This API key may not call models: its scope lacks the data plane.",
            "planes of the API key",
        )
    return may(snapshot, caller, Level.CAN_QUERY, endpoint)


def _groups(snapshot: Snapshot, caller: Caller) -> tuple[GroupNote, ...]:
    mine = caller.principal.groups
    notes: list[GroupNote] = []
    for each in mine:
        group = snapshot.groups.get(each)
        name = each if group is None else group.name
        through = sorted(
            inner.name for inner in snapshot.groups.values() if inner.id in mine and each in inner.parents
        )
        words = f"through {', '.join(map(repr, through))}" if through else "directly"
        notes.append(GroupNote(each, name, f"group {name!r} ({each}), {words}"))
    return tuple(notes)


def _grants(snapshot: Snapshot, caller: Caller, endpoint: Endpoint) -> tuple[str, ...]:
    who = caller.principal
    there = snapshot.grants.get(endpoint.id, {})
    found = [
        (there[each], words)
        for each, words in (
            (who.id, f"{who.kind.value.replace('_', ' ')} {who.name!r}"),
            *((group, group_words(snapshot, group)) for group in who.groups),
        )
        if each in there
    ]
    best = max((level for level, _ in found), default=None)
    notes = [f"role {role.value} of {_holder(snapshot, caller, role)}" for role in sorted(who.roles)]
    for level, words in sorted(found, key=lambda each: -each[0]):
        notes.append(
            f"{level.name} granted to {words}" + ("" if level == best else " (a higher one is held)")
        )
    return tuple(notes)


def _holder(snapshot: Snapshot, caller: Caller, role: object) -> str:
    who = caller.principal
    if role in who.own_roles:
        return repr(who.name)
    for each in who.groups:
        group = snapshot.groups.get(each)
        if group is not None and role in group.roles:
            return group_words(snapshot, each)
    return repr(who.name)


def _bound(snapshot: Snapshot, draw: Draw, used: int | None) -> Bound:
    money = draw.metric is Metric.MONEY
    amount = f"${usd_of(draw.capacity)}" if money else f"{draw.capacity} {draw.metric.value}"
    what = "budget" if money else "limit"
    named = f"{what} {draw.name!r}" if draw.name else f"{what} {draw.limit_id}"
    words = f"{named}: {amount}{window_words(draw.window)} for {draw.owner}, scope {draw.scope.value}"
    if used is not None:
        words += f", {f'${usd_of(used)}' if money else used} used"
    if draw.mode is Mode.OBSERVE:
        words += ", only observed: it never refuses"
    elif draw.alternatives and draw.group_id is not None:
        words += f"; one of the groups must have room for {draw.metric.value}, and this is one way"
    else:
        words += "; must have room"
    return Bound(draw, used, words)


def _taken(bound: Sequence[Bound]) -> tuple[list[Bound], Bound | None]:
    """What a small call would be charged to, and what has no room for one."""
    taken = [each for each in bound if not each.draw.alternatives]
    for each in taken:
        if not each.has_room:
            return [], each
    for number in sorted({each.draw.alternatives for each in bound} - {0}):
        ways: dict[str | None, list[Bound]] = {}
        for each in bound:
            if each.draw.alternatives == number:
                ways.setdefault(each.draw.group_id, []).append(each)
        chosen = next((way for way in ways.values() if all(each.has_room for each in way)), None)
        if chosen is None:
            return [], next(each for way in ways.values() for each in way if not each.has_room)
        taken += chosen
    return taken, None


def _candidates(endpoint: Endpoint) -> tuple[Candidate, ...]:
    found: list[Candidate] = []
    total = sum(percent for _, percent in endpoint.split)
    chances: Mapping[str, int] = dict(endpoint.split)
    reached = 0.0
    firsts: list[tuple[ServedEntity, ...]] = []
    for _, percent in endpoint.split:
        firsts.append(route(endpoint, reached + percent / total / 2, {}).order)
        reached += percent / total
    for order in firsts or [route(endpoint, 0.0, {}).order]:
        for place, entity in enumerate(order):
            if any(each.entity is entity for each in found):
                continue
            if place == 0:
                words = f"{chances.get(entity.name, 100)} % of calls" if len(firsts) > 1 else "first choice"
            else:
                words = f"fallback {place}"
            found.append(
                Candidate(entity, f"{entity.name!r} ({entity.provider}): {words}, {_cost(entity.price)}")
            )
    return tuple(found)


def _cost(price: Price) -> str:
    if not price.priced and not price.per_request:
        return "costs nothing" if not price.id else f"price {price.id} costs nothing"
    return (
        f"price {price.id}: ${usd_of(price.input)} in and ${usd_of(price.output)} out per million tokens"
        + (f", ${usd_of(price.per_request)} a request" if price.per_request else "")
    )


def differences(
    found: Explanation, *, charged: Mapping[str, int], group_id: str | None, degraded: bool
) -> list[str]:
    """Where what was really done departs from this explanation: nothing, unless something is wrong.

    `charged` has the limits and budgets of the ledger's row; without Redis (`degraded`) it names none.
    """
    told: list[str] = []
    if isinstance(found.permission, Deny):
        told.append(f"it was admitted although {found.permission.reason}")
    if degraded:
        return told
    binding = {each.draw.limit_id: each.draw for each in found.bound}
    told += [f"{each} was charged and does not bind" for each in sorted(charged.keys() - binding.keys())]
    told += [
        f"{each.words} was not charged"
        for each in found.bound
        if not each.draw.alternatives and each.draw.limit_id not in charged
    ]
    ways = {each.draw.group_id for each in found.bound if each.draw.alternatives}
    if group_id not in (ways or {None}):
        told.append(f"group {group_id} was charged and is none of those that could be")
    return told
