"""The kinds of objects that a file may declare: how each is told from others of its kind, and whom it refers to.

An object is written as a `Spec`, by names and never by ids, with every field present; the same from a file and from
the database, so that comparing two says exactly what a change would do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Spec = Mapping[str, Any]
GRANTEES = ("user", "service_principal", "group")
WORDED_WINDOWS = {
    "second": "rolling:1000",
    "minute": "rolling:60000",
    "hour": "rolling:3600000",
    "day": "rolling:86400000",
}
"""How files may write the windows that most limits have."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A name in a spec that must be somebody's."""

    kind: str
    name: str
    field: str
    index: int | None = None
    """Place in the field's list; None where the field is the name itself."""
    part: str | None = None
    """Where the list is one of objects: the part of the object that is the name."""
    item: str = ""
    """What that object is called."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object; the order of `KINDS` is the order in which objects are made."""

    name: str
    section: str
    """Where in the file they are."""
    label: Callable[[Spec], str]
    """What it is called in plans; two of one kind with the same label, whatever the case, are the same object."""
    references: Callable[[Spec], Iterator[Reference]]
    fixed: frozenset[str] = frozenset()
    """Fields that stay as they were made."""
    lasting: bool = False
    """Whether it stays in the books for good: pruning only lets go of it."""

    def key(self, spec: Spec) -> tuple[str, str]:
        """What it is looked up by."""
        return self.name, self.label(spec).lower()


def _named(spec: Spec) -> str:
    return str(spec["name"])


def _of_nobody(_: Spec) -> Iterator[Reference]:
    return iter(())


MEMBERS = (("users", "user"), ("service_principals", "service_principal"), ("groups", "group"))
"""A group's fields that list its direct members, and of which kind they are."""
MANAGERS = tuple((f"manager_{field}", kind) for field, kind in MEMBERS)


def _of_members(spec: Spec) -> Iterator[Reference]:
    for field, kind in (*MEMBERS, *MANAGERS):
        for index, name in enumerate(spec[field]):
            yield Reference(kind, name, field, index)


def _of_endpoint(spec: Spec) -> Iterator[Reference]:
    for index, each in enumerate(spec["served_entities"]):
        if each["account"] is not None:
            yield Reference("provider", each["account"], "served_entities", index, "account", each["name"])


def _of_grant(spec: Spec) -> Iterator[Reference]:
    yield Reference("endpoint", spec["endpoint"], "endpoint")
    for kind in GRANTEES:
        if spec[kind] is not None:
            yield Reference(kind, spec[kind], kind)


def _of_rule(spec: Spec) -> Iterator[Reference]:
    if spec["subject"] is not None:
        yield Reference(spec["scope"], spec["subject"], "subject")
    if spec["endpoint"] is not None:
        yield Reference("endpoint", spec["endpoint"], "endpoint")


def _of_provision(spec: Spec) -> Iterator[Reference]:
    yield Reference(spec["scope"], spec["subject"], "subject")


def _of_price(spec: Spec) -> Iterator[Reference]:
    yield Reference("endpoint", spec["endpoint"], "endpoint")


def _grant(spec: Spec) -> str:
    kind = next((each for each in GRANTEES if spec[each] is not None), "")
    return f"{kind.replace('_', ' ')} {spec.get(kind)} on {spec['endpoint']}"


def _span(spec: Spec) -> str:
    scope = spec["scope"].replace("_", " ")
    whom = scope if spec["subject"] is None else f"{scope} {spec['subject']}"
    return whom if spec["endpoint"] is None else f"{whom} on {spec['endpoint']}"


def _limit(spec: Spec) -> str:
    per = "" if spec["window"] is None else f" per {spec['window']}"
    return f"{_span(spec)}: {spec['metric']}{per}"


def _budget(spec: Spec) -> str:
    return f"{_span(spec)}: {spec['period']} in {spec['time_zone']}"


def _provision(spec: Spec) -> str:
    return f"{spec['scope']} {spec['subject']}"


def _price(spec: Spec) -> str:
    begins = "" if spec["from"] is None else f" from {spec['from']}"
    return f"{spec['endpoint']}/{spec['entity']}{begins}"


KINDS = (
    Kind("issuer", "issuers", _named, _of_nobody, frozenset({"issuer", "family"})),
    Kind("user", "users", _named, _of_nobody),
    Kind("service_principal", "service_principals", _named, _of_nobody),
    Kind("group", "groups", _named, _of_members),
    Kind("provider", "providers", _named, _of_nobody, frozenset({"provider"})),
    Kind("endpoint", "endpoints", _named, _of_endpoint, frozenset({"task"})),
    Kind("grant", "grants", _grant, _of_grant),
    Kind("limit", "limits", _limit, _of_rule),
    Kind("budget", "budgets", _budget, _of_rule),
    Kind("price", "prices", _price, _of_price, lasting=True),
    Kind("throughput_pool", "throughput_pools", _named, _of_nobody),
    Kind("throughput_provision", "throughput_provisions", _provision, _of_provision),
    Kind("webhook", "webhooks", _named, _of_nobody),
)
BY_NAME: Mapping[str, Kind] = {each.name: each for each in KINDS}


def with_names(kind: Kind, spec: Spec, proper: Callable[[str, str], str]) -> Spec:
    """The spec with each name that it refers to as its owner writes it; lists of names in order."""
    changed = dict(spec)
    listed: dict[str, set[str]] = {}
    for each in kind.references(spec):
        name = proper(each.kind, each.name)
        if each.index is None:
            changed[each.field] = name
        elif each.part is None:
            listed.setdefault(each.field, set()).add(name)
        else:
            objects = list(changed[each.field])
            objects[each.index] = {**objects[each.index], each.part: name}
            changed[each.field] = objects
    return {**changed, **{field: sorted(names) for field, names in listed.items()}}
