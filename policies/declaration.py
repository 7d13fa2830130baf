"""What a plan is made of: objects that a file declares, objects that are there, and the steps from these to those.

Objects are compared field by field, each written in one way; a difference is all that a step would do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from policies.declared_kinds import Spec


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


def differences(before: Spec, after: Spec) -> tuple[Difference, ...]:
    """The fields in which two specs differ."""
    return tuple(
        Difference(field, before.get(field), value)
        for field, value in after.items()
        if before.get(field) != value
    )


__all__ = [
    "CHANGING",
    "Action",
    "CannotPlan",
    "Declared",
    "Difference",
    "Plan",
    "Present",
    "Problem",
    "Step",
    "differences",
]
