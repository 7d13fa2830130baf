"""Whom declared objects refer to: every name is somebody's, nothing that is needed goes, no group is inside itself.

Each check answers problems with their places in the file; none decides what is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from policies.declaration import Declared, Present, Problem
from policies.declared_kinds import BY_NAME, Reference, Spec, with_names

Key = tuple[str, str]
_REFERRED = frozenset({"user", "service_principal", "group", "provider", "endpoint"})


def names_of(
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


def proper(each: Declared, names: Mapping[Key, str]) -> tuple[Spec, list[Problem]]:
    """The spec with every name as its owner writes it, and the names that are nobody's."""
    kind = BY_NAME[each.kind]
    problems = [
        Problem(
            _place(each, reference),
            f"there is no {reference.kind.replace('_', ' ')} {reference.name!r},"
            " neither in the file nor in the deployment",
        )
        for reference in kind.references(each.spec)
        if (reference.kind, reference.name.lower()) not in names
    ]
    return with_names(kind, each.spec, lambda of, name: names.get((of, name.lower()), name)), problems


def without_entity(wanted: Mapping[Key, Declared], there: Mapping[Key, Present]) -> list[Problem]:
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


def still_needed(gone: Sequence[Present], wanted: Mapping[Key, Declared]) -> list[Problem]:
    """What the file still refers to cannot be pruned."""
    going = {BY_NAME[each.kind].key(each.spec) for each in gone}
    return [
        Problem(
            _place(each, reference),
            f"it names the {reference.kind.replace('_', ' ')} {reference.name!r}, which --prune would delete",
        )
        for each in wanted.values()
        for reference in BY_NAME[each.kind].references(each.spec)
        if (reference.kind, reference.name.lower()) in going
    ]


def elsewhere(wanted: Mapping[Key, Declared], there: Mapping[Key, Present]) -> list[Problem]:
    """Users and service principals share one set of names."""
    other = {"user": "service_principal", "service_principal": "user"}
    return [
        Problem(f"{each.path}.name", f"{each.spec['name']!r} is a {other[kind].replace('_', ' ')} already")
        for (kind, name), each in wanted.items()
        if kind in other and ((other[kind], name) in there or (other[kind], name) in wanted)
    ]


def nesting_of(
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
        # In order of names, so that neither the file's order nor the database's shows in the plan.
        order = TopologicalSorter({name: sorted(within[name]) for name in sorted(within)}).static_order()
        return {name: number for number, name in enumerate(order)}
    except CycleError as error:
        # What is there has no cycle, so that one of its groups is the file's.
        each = next(wanted["group", name] for name in error.args[1] if ("group", name) in wanted)
        problems.append(
            Problem(f"{each.path}.groups", f"that would put the group {each.spec['name']!r} inside itself")
        )
        return {}


def _place(each: Declared, reference: Reference) -> str:
    place = f"{each.path}.{reference.field}"
    if reference.part is not None:
        return f"{place}[{reference.item}].{reference.part}"
    return place if reference.index is None else f"{place}[{reference.index}]"


def named(kind: str, spec: Spec) -> str:
    return f"the {kind.replace('_', ' ')} {BY_NAME[kind].label(spec)!r}"


__all__ = [
    "Key",
    "elsewhere",
    "named",
    "names_of",
    "nesting_of",
    "proper",
    "still_needed",
    "without_entity",
]
