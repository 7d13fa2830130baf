"""Plan how what is there becomes what a file declares: what to make, change, take over and delete, in which order.

A plan that could not be carried out whole is none: unknown names, objects of other files and changes of what is
fixed are refused together, each with its place in the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from typing import Any

from policies.declared_kinds import BY_NAME, KINDS, Kind, Spec, with_names

Key = tuple[str, str]
_REFERRED = frozenset({"user", "service_principal", "group", "endpoint"})


class Action(StrEnum):
    """What happens to an object."""

    CREATE = "create"
    UPDATE = "update"
    ADOPT = "adopt"
    """It is as the file says, and the file takes it over."""
    DELETE = "delete"
    RELEASE = "release"
    """It stays in the books, and is no longer the file's."""
    LEAVE = "leave"
    """The file no longer names it; it stays until it is pruned."""
    UNCHANGED = "unchanged"


CHANGING = frozenset({Action.CREATE, Action.UPDATE, Action.DELETE, Action.RELEASE})
"""What makes a difference; taking over is done on the way."""


@dataclass(frozen=True, slots=True)
class Declared:
    """An object as a file has it."""

    kind: str
    spec: Spec
    path: str
    """Its place in the file: `limits[3]`."""


@dataclass(frozen=True, slots=True)
class Present:
    """An object as it is."""

    kind: str
    spec: Spec
    id: str
    managed_by: str | None


@dataclass(frozen=True, slots=True)
class Difference:
    """A field with what it is and what it becomes; of a drift, what it was made and what it is."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one object."""

    action: Action
    kind: str
    label: str
    spec: Spec
    """As it shall be; of what goes, as it is."""
    id: str | None = None
    managed_by: str | None = None
    """The file that has it now."""
    differences: tuple[Difference, ...] = ()
    drift: tuple[Difference, ...] = ()
    """What somebody changed since the file was applied last."""
    drifted_away: bool = False
    """The file made it, and it is gone."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a file cannot be applied."""

    path: str
    message: str
    file: str | None = None
    """The other file that has the object."""


class CannotPlan(ValueError):
    """What a file declares cannot be made; `problems` says all of the reasons."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(f"{each.path}: {each.message}" for each in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in the order in which they can be taken."""

    file: str
    steps: tuple[Step, ...]

    @property
    def differs(self) -> bool:
        """Whether applying it would make a difference to anyone."""
        return any(step.action in CHANGING for step in self.steps)


def plan(
    declared: Sequence[Declared],
    present: Sequence[Present],
    *,
    file: str,
    prune: bool = False,
    applied: Sequence[Declared] = (),
    keys: Iterable[str] = (),
) -> Plan:
    """What to do; raises CannotPlan.

    `applied` is what the file said when it was applied last, to tell drift from an edit; `keys` are the public parts
    of API keys, which rules may name and no file declares.
    """
    there = {BY_NAME[each.kind].key(each.spec): each for each in present}
    names = _names(declared, there, keys)
    before = [Declared(each.kind, _proper(each, names)[0], each.path) for each in applied]
    last = {BY_NAME[each.kind].key(each.spec): each for each in before}
    wanted: dict[Key, Declared] = {}
    problems: list[Problem] = []
    for each in declared:
        spec, found = _proper(each, names)
        problems += found
        key = BY_NAME[each.kind].key(spec)
        if key in wanted:
            problems.append(
                Problem(each.path, f"{_named(each.kind, spec)} is declared at {wanted[key].path} already")
            )
        wanted.setdefault(key, Declared(each.kind, spec, each.path))
    steps = [
        _step(BY_NAME[each.kind], each, there.get(key), last.get(key), file, problems)
        for key, each in wanted.items()
    ]
    gone = [each for key, each in there.items() if each.managed_by == file and key not in wanted]
    if prune:
        problems += _still_needed(gone, wanted)
    problems += _elsewhere(wanted, there) + _without_entity(wanted, there)
    nesting = _nesting(wanted, there, problems)
    if problems:
        raise CannotPlan(problems)
    rank = {kind.name: number for number, kind in enumerate(KINDS)}
    steps.sort(key=lambda step: (rank[step.kind], nesting.get(step.label.lower(), 0), step.label))
    ending = sorted(gone, key=lambda each: (-rank[each.kind], BY_NAME[each.kind].label(each.spec)))
    return Plan(file, (*steps, *(_ending(each, prune) for each in ending)))


def differences(before: Spec, after: Spec) -> tuple[Difference, ...]:
    """The fields in which two specs differ."""
    return tuple(
        Difference(field, before.get(field), value)
        for field, value in after.items()
        if before.get(field) != value
    )


def _step(
    kind: Kind,
    wanted: Declared,
    there: Present | None,
    last: Declared | None,
    file: str,
    problems: list[Problem],
) -> Step:
    label = kind.label(wanted.spec)
    if there is None:
        return Step(Action.CREATE, kind.name, label, wanted.spec, drifted_away=last is not None)
    if there.managed_by not in (None, file):
        problems.append(
            Problem(
                wanted.path,
                f"{_named(kind.name, wanted.spec)} is managed by the file {there.managed_by!r};"
                " take it out of one of the two",
                there.managed_by,
            )
        )
    changed = differences(there.spec, wanted.spec)
    problems += [
        Problem(
            f"{wanted.path}.{each.field}",
            f"it stays as it was made ({each.before!r}); declare another {kind.name} instead",
        )
        for each in changed
        if each.field in kind.fixed
    ]
    drift: tuple[Difference, ...] = ()
    if last is not None and there.managed_by == file:
        drift = differences(last.spec, there.spec)
    kept = Action.UNCHANGED if there.managed_by == file else Action.ADOPT
    action = Action.UPDATE if changed else kept
    return Step(action, kind.name, label, wanted.spec, there.id, there.managed_by, changed, drift)


def _ending(there: Present, prune: bool) -> Step:
    kind = BY_NAME[there.kind]
    action = Action.LEAVE
    if prune:
        action = Action.RELEASE if kind.lasting else Action.DELETE
    return Step(action, there.kind, kind.label(there.spec), there.spec, there.id, there.managed_by)


def _names(
    declared: Sequence[Declared], there: Mapping[Key, Present], keys: Iterable[str]
) -> Mapping[Key, str]:
    """Every name that may be referred to, as its owner writes it."""
    names: dict[Key, str] = {("key", name.lower()): name for name in keys}
    names |= {key: str(each.spec["name"]) for key, each in there.items() if key[0] in _REFERRED}
    names |= {
        BY_NAME[each.kind].key(each.spec): str(each.spec["name"])
        for each in declared
        if each.kind in _REFERRED
    }
    return names


def _proper(each: Declared, names: Mapping[Key, str]) -> tuple[Spec, list[Problem]]:
    """The spec with every name as its owner writes it, and the names that are nobody's."""
    kind = BY_NAME[each.kind]
    problems = [
        Problem(
            _place(each, reference.field, reference.index),
            f"there is no {reference.kind.replace('_', ' ')} {reference.name!r},"
            " neither in the file nor in the deployment",
        )
        for reference in kind.references(each.spec)
        if (reference.kind, reference.name.lower()) not in names
    ]
    return with_names(kind, each.spec, lambda of, name: names.get((of, name.lower()), name)), problems


def _without_entity(wanted: Mapping[Key, Declared], there: Mapping[Key, Present]) -> list[Problem]:
    """Prices of served entities that their endpoint will not have."""
    problems: list[Problem] = []
    for each in wanted.values():
        if each.kind != "price":
            continue
        endpoint, entity = each.spec["endpoint"], each.spec["entity"]
        key = ("endpoint", endpoint.lower())
        found = wanted.get(key) or there.get(key)
        if found is not None and all(one["name"] != entity for one in found.spec["served_entities"]):
            problems.append(
                Problem(f"{each.path}.entity", f"endpoint {endpoint!r} has no served entity {entity!r}")
            )
    return problems


def _still_needed(gone: Sequence[Present], wanted: Mapping[Key, Declared]) -> list[Problem]:
    """What the file still refers to cannot be pruned."""
    going = {BY_NAME[each.kind].key(each.spec) for each in gone}
    return [
        Problem(
            _place(each, reference.field, reference.index),
            f"it names the {reference.kind.replace('_', ' ')} {reference.name!r}, which --prune would delete",
        )
        for each in wanted.values()
        for reference in BY_NAME[each.kind].references(each.spec)
        if (reference.kind, reference.name.lower()) in going
    ]


def _elsewhere(wanted: Mapping[Key, Declared], there: Mapping[Key, Present]) -> list[Problem]:
    """Users and service principals share one set of names."""
    other = {"user": "service_principal", "service_principal": "user"}
    return [
        Problem(f"{each.path}.name", f"{each.spec['name']!r} is a {other[kind].replace('_', ' ')} already")
        for (kind, name), each in wanted.items()
        if kind in other and ((other[kind], name) in there or (other[kind], name) in wanted)
    ]


def _nesting(
    wanted: Mapping[Key, Declared], there: Mapping[Key, Present], problems: list[Problem]
) -> dict[str, int]:
    """The place of each group in an order in which members come first; a cycle is added to the problems."""
    within: dict[str, list[str]] = {
        name: [each.lower() for each in found.spec["groups"]]
        for (kind, name), found in there.items()
        if kind == "group"
    }
    for (kind, name), each in wanted.items():
        if kind == "group":
            within[name] = [other.lower() for other in each.spec["groups"]]
    try:
        return {name: number for number, name in enumerate(TopologicalSorter(within).static_order())}
    except CycleError as error:
        # What is there has no cycle, so that one of its groups is the file's.
        each = next(wanted["group", name] for name in error.args[1] if ("group", name) in wanted)
        problems.append(
            Problem(f"{each.path}.groups", f"that would put the group {each.spec['name']!r} inside itself")
        )
        return {}


def _place(each: Declared, field: str, index: int | None) -> str:
    return f"{each.path}.{field}" if index is None else f"{each.path}.{field}[{index}]"


def _named(kind: str, spec: Spec) -> str:
    return f"the {kind.replace('_', ' ')} {BY_NAME[kind].label(spec)!r}"


__all__ = ["Action", "CannotPlan", "Declared", "Difference", "Plan", "Present", "Problem", "Step", "plan"]
