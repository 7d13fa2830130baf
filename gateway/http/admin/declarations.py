"""Files that declare objects: plan, apply and export; what a file manages is read-only on all other routes.

Applying is one transaction and one configuration change, audited with the file's name and digest.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, QueryParameter
from msgspec import Meta, Struct

from gateway.declarative.apply import Declaration, applied, digest, planned
from gateway.declarative.export import document
from gateway.declarative.present import read
from gateway.http.admin.access import Admin
from policies.administration import Permission
from policies.declaration import Difference, Plan, Step

READ = {"permission": Permission.DECLARATIONS_READ}
WRITE = {"permission": Permission.DECLARATIONS_WRITE}
_FILE = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
FileName = Annotated[
    str,
    Meta(
        pattern=_FILE,
        description="Name of the file, without folders: objects remember it.",
        examples=["platform-team.yaml"],
    ),
]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the file's bytes.")]
Content = Annotated[
    dict[str, Any],
    Meta(
        description="The file's content, as JSON; docs/declarative.md has all of its fields.",
        examples=[{"groups": [{"name": "data-science", "users": ["alice@example.com"]}]}],
    ),
]


class DeclarationToPlan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file to compare with what is there."""

    file: FileName
    document: Content
    prune: bool = False
    """Deletes what this file made or took over before, and no longer names."""


class DeclarationToApply(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file to apply."""

    file: FileName
    document: Content
    sha256: Digest
    prune: bool = False
    plan: Annotated[str, Meta(max_length=64)] | None = None
    """The plan that was looked at: if it would be another by now, nothing happens."""


class DifferenceView(Struct, frozen=True):
    """A field, with its value before and after."""

    field: str
    before: Any
    after: Any


class StepView(Struct, frozen=True, kw_only=True):
    """What happens to one object."""

    action: str
    """`create`, `update`, `adopt`, `delete`, `release`, `leave` or `unchanged`."""
    kind: str
    name: str
    managed_by: str | None
    differences: list[DifferenceView]
    drift: list[DifferenceView]
    """What was changed elsewhere since the file was applied: as the file had it, and as it is."""
    drifted_away: bool
    """The file made it, and somebody deleted it."""


class PlanView(Struct, frozen=True, kw_only=True):
    """What applying a file does, in order."""

    file: str
    plan: str
    """Names this plan when it is applied."""
    differs: bool
    steps: list[StepView]


@post(
    "/declarations:plan",
    opt=READ,
    status_code=200,
    tags=["Declarations"],
    summary="What applying a file would do",
)
async def plan_declaration(admin: NamedDependency[Admin], data: JSONBody[DeclarationToPlan]) -> PlanView:
    """Changes nothing; refuses what could not be applied, with each place in the file."""
    async with admin.reading() as connection:
        declaration = _declaration(admin, data)
        made = await planned(connection, datetime.now(UTC), declaration)
    return _view(made)


@post("/declarations:apply", opt=WRITE, status_code=200, tags=["Declarations"], summary="Apply a file")
async def apply_declaration(admin: NamedDependency[Admin], data: JSONBody[DeclarationToApply]) -> PlanView:
    """All of it in one change, or nothing; answers what was done."""
    declaration = _declaration(admin, data, data.sha256)
    async with admin.change(f"apply {data.file} {data.sha256}", file=data.file) as change:
        done = await applied(change, admin.sealing, declaration, data.plan)
    return _view(done)


class Export(Struct, frozen=True, kw_only=True):
    """A file's content."""

    document: dict[str, Any]
    left_out: list[str]
    """What no file can declare."""


@get("/declarations:export", opt=READ, tags=["Declarations"], summary="Write a file from what is there")
async def export_declaration(
    admin: NamedDependency[Admin],
    file: Annotated[
        str | None, QueryParameter(pattern=_FILE, description="Includes what this file manages.")
    ] = None,
    everything: Annotated[
        bool, QueryParameter(description="Includes what other files manage, for another deployment.")
    ] = False,
) -> Export:
    """What no file manages, unless more is asked for; comparing it with what is there finds no difference."""
    async with admin.reading() as connection:
        found = await read(connection, datetime.now(UTC))
    return Export(document=document(found, file, everything=everything), left_out=list(found.undeclarable))


def _declaration(admin: Admin, data: DeclarationToPlan | DeclarationToApply, sha256: str = "") -> Declaration:
    hosts = {"webhook_hosts": admin.webhook_hosts, "provider_hosts": admin.provider_hosts}
    return Declaration(data.file, data.document, data.prune, sha256, **hosts)


def _view(plan: Plan) -> PlanView:
    return PlanView(
        file=plan.file, plan=digest(plan), differs=plan.differs, steps=[_step(each) for each in plan.steps]
    )


def _step(step: Step) -> StepView:
    return StepView(
        action=step.action.value,
        kind=step.kind,
        name=step.label,
        managed_by=step.managed_by,
        differences=_differences(step.differences),
        drift=_differences(step.drift),
        drifted_away=step.drifted_away,
    )


def _differences(found: tuple[Difference, ...]) -> list[DifferenceView]:
    return [DifferenceView(each.field, each.before, each.after) for each in found]
