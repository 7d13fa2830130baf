"""Erases what entries of the audit are about, for good, and leaves the chain valid: the salted digests stand.

The schema's owner does it, never the application; that it was done is an entry of the chain itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import BadRequest, NotFound
from gateway.store import audit

# Without these a dropped week or a declared file could no longer be told from a forged one.
_KEPT = ("ledger.close", audit.ERASE)
_FOUND = text("""
    SELECT number, action FROM gateway.audit_entries JOIN gateway.audit_contents USING (number)
    WHERE number = ANY(CAST(:numbers AS bigint[])) ORDER BY number
""")


async def erase_entries(
    connection: AsyncConnection, numbers: Sequence[int], *, key: bytes, actor: str, reason: str
) -> int:
    """Erase the contents of these entries in the caller's transaction, as the owner; raises NotFound, BadRequest."""
    found = (await connection.execute(_FOUND, {"numbers": list(numbers)})).all()
    if missing := sorted(set(numbers) - {row.number for row in found}):
        raise NotFound(f"Entry {missing[0]} is not there, or has no contents any more.")
    if kept := [row for row in found if row.action in _KEPT]:
        raise BadRequest(f"Entry {kept[0].number} ({kept[0].action}) holds nothing personal and is kept.")
    await connection.execute(
        text("DELETE FROM gateway.audit_contents WHERE number = ANY(CAST(:numbers AS bigint[]))"),
        {"numbers": list(numbers)},
    )
    for number in sorted(set(numbers)):
        await _said(connection, "audit_entry", str(number), key=key, actor=actor, reason=reason)
    return len(found)


async def erase_refusals(
    connection: AsyncConnection, principal_id: str, *, key: bytes, actor: str, reason: str
) -> int:
    """Erase every refusal of a principal in the caller's transaction, as the owner; how many."""
    done = await connection.execute(
        text("UPDATE gateway.audit_refusals SET salt = NULL, content = NULL WHERE principal_id = :principal"),
        {"principal": principal_id},
    )
    if done.rowcount:
        # Their number, not whose they were: that is what was to be forgotten.
        await _said(
            connection,
            "audit_refusals",
            f"{done.rowcount} of one principal",
            key=key,
            actor=actor,
            reason=reason,
        )
    return done.rowcount


async def _said(
    connection: AsyncConnection, kind: str, object_id: str, *, key: bytes, actor: str, reason: str
) -> None:
    await audit.append(
        connection,
        key=key,
        actor=actor,
        action=audit.ERASE,
        object_kind=kind,
        object_id=object_id,
        reason=reason,
    )
