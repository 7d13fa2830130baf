"""Read the audit: who changed what, from what to what, newest first.

Reading is all that can be done with it here.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from litestar import get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from msgspec import Struct
from sqlalchemy import select

from gateway.http.admin.access import Admin
from gateway.http.admin.versions import Filter, Size
from gateway.store.tables.audit import audit_contents, audit_entries
from policies.administration import Permission


class AuditEntry(Struct, frozen=True, kw_only=True):
    """One entry of the audit's chain."""

    number: int
    at: datetime
    actor: str
    action: str
    object_kind: str
    object_id: str
    before: Any
    """The object before; null where it was created, or the content was erased."""
    after: Any
    reason: str | None


class AuditPage(Struct, frozen=True, kw_only=True):
    """One page of the audit, newest first."""

    items: list[AuditEntry]
    next: int | None
    """Pass as `before` to get the next page; null on the last one."""


@get(
    "/audit",
    opt={"permission": Permission.AUDIT_READ},
    tags=["Audit"],
    summary="Read the audit, newest first",
)
async def read_audit(
    admin: NamedDependency[Admin],
    before: Annotated[
        int | None,
        QueryParameter(ge=1, le=2**63 - 1, description="Number of the entry below which the page begins."),
    ] = None,
    size: Size = 50,
    object_kind: Filter = None,
    object_id: Filter = None,
) -> AuditPage:
    """`object_kind` and `object_id` narrow it to one kind of object, or to one object."""
    entries = audit_entries.c
    contents = audit_contents.c
    query = (
        select(audit_entries, contents.before, contents.after, contents.reason)
        .outerjoin(audit_contents, contents.number == entries.number)
        .order_by(entries.number.desc())
        .limit(size + 1)
    )
    if before is not None:
        query = query.where(entries.number < before)
    if object_kind is not None:
        query = query.where(entries.object_kind == object_kind)
    if object_id is not None:
        query = query.where(entries.object_id == object_id)
    async with admin.reading() as connection:
        found = (await connection.execute(query)).all()
    items = [
        AuditEntry(
            number=row.number,
            at=row.at,
            actor=row.actor,
            action=row.action,
            object_kind=row.object_kind,
            object_id=row.object_id,
            before=row.before,
            after=row.after,
            reason=row.reason,
        )
        for row in found[:size]
    ]
    return AuditPage(items=items, next=items[-1].number if len(found) > size else None)
