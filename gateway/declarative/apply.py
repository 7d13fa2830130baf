"""Make what is there into what a file declares, in one change: all of it, or nothing.

The plan is made again inside the change, so what is done is what the plan says of that very moment; where a plan
was shown before, only that one is carried out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.declarative import present
from gateway.declarative.document import read
from gateway.declarative.ending import delete, release
from gateway.declarative.making import Making
from gateway.errors import BadRequest, Conflict
from gateway.providers.adapters import provider_address
from gateway.security.addresses import AddressRefused, read_address
from gateway.security.sealing import Sealing
from gateway.store.changes import Change
from gateway.store.tables.audit import audit_contents, audit_entries
from policies.declaration import Action, CannotPlan, Declared, Plan, Problem
from policies.declared_kinds import BY_NAME
from policies.planning import plan

_SHOWN_PROBLEMS = 20
AUDIT_KIND = "declaration"


@dataclass(frozen=True, slots=True)
class Declaration:
    """A file as it came."""

    file: str
    document: Mapping[str, Any]
    prune: bool = False
    sha256: str = ""
    webhook_hosts: frozenset[str] = frozenset()
    """Hosts to which events may go although they are private, or by plain http."""
    provider_hosts: frozenset[str] = frozenset()
    """The same of providers."""


async def planned(connection: AsyncConnection, at: datetime, declaration: Declaration) -> Plan:
    """What applying it would do; raises BadRequest for what cannot be, Conflict for what another file has."""
    return (await _planned(connection, at, declaration))[0]


async def applied(change: Change, sealing: Sealing, declaration: Declaration, expected: str | None) -> Plan:
    """Apply it; raises Conflict where the plan is no longer the expected one."""
    done, found = await _planned(change.connection, change.at, declaration)
    if expected is not None and expected != digest(done):
        raise Conflict(
            "What is there changed since the plan was made; look at the new plan, then apply again.",
            code="plan_changed",
        )
    making = Making(change, sealing, found)
    for step in done.steps:
        match step.action:
            case Action.CREATE:
                await making.create(step)
            case Action.UPDATE | Action.ADOPT:
                await making.update(step)
            case Action.DELETE:
                await delete(change, step)
            case Action.RELEASE:
                await release(change, step)
            case Action.LEAVE | Action.UNCHANGED:
                pass
    await making.finish()
    last = await _last(change.connection, declaration.file)
    if change.touched or last is None or last.get("document") != declaration.document:
        content = {"sha256": declaration.sha256, "document": dict(declaration.document)}
        await change.record(AUDIT_KIND, declaration.file, "apply", content)
    return done


def digest(of: Plan) -> str:
    """Names a plan by all that it would do."""
    doing = [
        [
            step.action,
            step.kind,
            step.label,
            step.spec,
            [[each.field, each.before] for each in step.differences],
        ]
        for step in of.steps
    ]
    return sha256(json.dumps([of.file, doing], sort_keys=True).encode()).hexdigest()


async def _planned(
    connection: AsyncConnection, at: datetime, declaration: Declaration
) -> tuple[Plan, present.Found]:
    try:
        declared = read(declaration.document)
        _check_addresses(declared, declaration)
        wanted = {BY_NAME[each.kind].key(each.spec) for each in declared}
        last = await _last(connection, declaration.file)
        before = [] if last is None else _as_it_was(last.get("document"))
        wanted |= {BY_NAME[each.kind].key(each.spec) for each in before}
        found = await present.read(connection, at, wanted)
        made = await asyncio.to_thread(
            plan,
            declared,
            found.objects,
            file=declaration.file,
            prune=declaration.prune,
            applied=before,
            keys=found.keys,
        )
    except CannotPlan as error:
        raise _refusal(declaration.file, error) from error
    return made, found


async def _last(connection: AsyncConnection, file: str) -> Mapping[str, Any] | None:
    """What was recorded when the file was applied last; None where it never was, or that was erased."""
    entries = audit_entries.c
    query = (
        select(audit_contents.c.after)
        .select_from(audit_entries.outerjoin(audit_contents, audit_contents.c.number == entries.number))
        .where(entries.object_kind == AUDIT_KIND, entries.object_id == file)
        .order_by(entries.number.desc())
        .limit(1)
    )
    return await connection.scalar(query)


def _check_addresses(declared: list[Declared], declaration: Declaration) -> None:
    problems: list[Problem] = []
    for each in declared:
        field = "url" if each.kind == "webhook" else "base_url"
        try:
            if each.kind == "webhook":
                read_address(each.spec["url"], declaration.webhook_hosts)
            elif each.kind == "provider":
                provider_address(each.spec["base_url"], declaration.provider_hosts)
        except AddressRefused as error:
            what = "event can be sent" if each.kind == "webhook" else "provider can be"
            problems.append(Problem(f"{each.path}.{field}", f"no {what} there: {error}"))
    if problems:
        raise CannotPlan(problems)


def _as_it_was(document: Any) -> list[Declared]:
    try:
        return read(document)
    except CannotPlan:
        # Written for another version of this gateway: drift cannot be told, and nothing else depends on it.
        return []


def _refusal(file: str, error: CannotPlan) -> BadRequest | Conflict:
    lines = [f"{each.path}: {each.message}" for each in error.problems[:_SHOWN_PROBLEMS]]
    if len(error.problems) > _SHOWN_PROBLEMS:
        lines.append(f"and {len(error.problems) - _SHOWN_PROBLEMS} more")
    message = f"{file} cannot be applied:\n  " + "\n  ".join(lines)
    if any(each.file is not None for each in error.problems):
        return Conflict(message, code="managed_by_file")
    return BadRequest(message, param=error.problems[0].path, code="invalid_declaration")
