"""Plan how what is there becomes what a file declares: what to make, change, take over and delete, in which order.

A plan that could not be carried out whole is none: unknown names, objects of other files and changes of what is
fixed are refused together, each with its place in the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from policies.declaration import (
    Action,
    CannotPlan,
    Declared,
    Difference,
    Plan,
    Present,
    Problem,
    Step,
    differences,
)
from policies.declared_kinds import BY_NAME, KINDS, Kind
from policies.declared_references import (
    Key,
    elsewhere,
    named,
    names_of,
    nesting_of,
    proper,
    still_needed,
    without_entity,
)


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
    names = names_of(declared, there, keys)
    before = [Declared(each.kind, proper(each, names)[0], each.path) for each in applied]
    last = {BY_NAME[each.kind].key(each.spec): each for each in before}
    wanted: dict[Key, Declared] = {}
    problems: list[Problem] = []
    for each in declared:
        spec, found = proper(each, names)
        problems += found
        key = BY_NAME[each.kind].key(spec)
        if key in wanted:
            problems.append(
                Problem(each.path, f"{named(each.kind, spec)} is declared at {wanted[key].path} already")
            )
        wanted.setdefault(key, Declared(each.kind, spec, each.path))
    steps = [
        _step(BY_NAME[each.kind], each, there.get(key), last.get(key), file, problems)
        for key, each in wanted.items()
    ]
    gone = [each for key, each in there.items() if each.managed_by == file and key not in wanted]
    if prune:
        problems += still_needed(gone, wanted)
    problems += elsewhere(wanted, there) + without_entity(wanted, there)
    nesting = nesting_of(wanted, there, problems)
    if problems:
        raise CannotPlan(problems)
    rank = {kind.name: number for number, kind in enumerate(KINDS)}
    steps.sort(key=lambda step: (rank[step.kind], nesting.get(step.label.lower(), 0), step.label))
    ending = sorted(gone, key=lambda each: (-rank[each.kind], BY_NAME[each.kind].label(each.spec)))
    return Plan(file, (*steps, *(_ending(each, prune) for each in ending)))


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
                f"{named(kind.name, wanted.spec)} is managed by the file {there.managed_by!r};"
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


__all__ = ["plan"]
