"""The audit of administrative changes: a chain of entries, each appended in the transaction of what it records.

An entry's digest covers the digest before it and the exact text that is stored, under a key that is not in the
database: whoever edits, removes, inserts or reorders entries without the key is found by `verify`, which names the
first bad one. What was cut off the end is found against a head that was exported before.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from gateway.store.tables.audit import audit_contents, audit_entries

_LOCK = 0x5742_0002
_GENESIS = bytes(32)
_PAGE = 1000
_FIELDS = frozenset({"number", "at_us", "actor", "action", "object_kind", "object_id", "content"})

Scope = AsyncConnection | AsyncSession


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the chain at some time; kept elsewhere, it makes truncation visible."""

    number: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` found."""

    entries: int
    """Good ones, from the first on."""
    erased: int
    """Entries whose contents were erased, which is allowed."""
    bad: int | None
    """Number of the first bad entry; None if all is well."""
    problem: str | None
    head: Head


async def append(
    connection: Scope,
    *,
    key: bytes,
    actor: str,
    action: str,
    object_kind: str,
    object_id: str,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    reason: str | None = None,
) -> int:
    """Add an entry in the caller's transaction (READ COMMITTED); its number.

    Others that append wait until that transaction ends, so append last. `before` and `after` hold no secret.
    """
    await connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
    at_us = await connection.scalar(text("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8"))
    head = await read_head(connection)
    salt = secrets.token_bytes(16)
    content = canonical({"before": before, "after": after, "reason": reason})
    number = head.number + 1
    body = canonical(
        {
            "number": number,
            "at_us": at_us,
            "actor": actor,
            "action": action,
            "object_kind": object_kind,
            "object_id": object_id,
            "content": _content_digest(salt, content),
        }
    )
    digest = chained(key, head.digest, body)
    await connection.execute(insert(audit_entries).values(number=number, body=body, digest=digest))
    await connection.execute(insert(audit_contents).values(number=number, salt=salt, content=content))
    return number


async def read_head(connection: Scope) -> Head:
    """The last entry's number and digest."""
    columns = (audit_entries.c.number, audit_entries.c.digest)
    row = (await connection.execute(select(*columns).order_by(columns[0].desc()).limit(1))).first()
    return Head(0, _GENESIS) if row is None else Head(row[0], row[1])


async def verify(connection: Scope, key: bytes, *, known: Head | None = None) -> Verdict:
    """Follow the chain from its first entry; `known` is a head that was exported before."""
    number, digest, erased = 0, _GENESIS, 0
    entries, contents = audit_entries.c, audit_contents.c
    chosen = select(
        entries.number, entries.body, entries.digest, contents.salt, contents.content
    ).outerjoin_from(audit_entries, audit_contents, entries.number == contents.number)
    while True:
        page = (
            await connection.execute(
                chosen.where(entries.number > number).order_by(entries.number).limit(_PAGE)
            )
        ).all()
        for row in page:
            problem = _problem(row, number + 1, digest, key)
            if problem is None and known is not None and row[0] == known.number and row[2] != known.digest:
                problem = "is not the one that was exported"
            if problem is not None:
                return Verdict(number, erased, number + 1, problem, Head(number, digest))
            number, digest = row[0], row[2]
            erased += row[3] is None
        if len(page) < _PAGE:
            break
    if known is not None and number < known.number:
        return Verdict(
            number, erased, number + 1, f"is missing, as are all up to {known.number}", Head(number, digest)
        )
    return Verdict(number, erased, None, None, Head(number, digest))


def canonical(value: Any) -> str:
    """The one text that stands for a value: sorted keys, no spaces, no zero character, which PostgreSQL refuses."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).replace(
        "\\u0000", "\\ufffd"
    )


def chained(key: bytes, previous: bytes, body: str) -> bytes:
    """An entry's digest."""
    return hmac.digest(key, previous + body.encode(), "sha256")


def _content_digest(salt: bytes, content: str) -> str:
    return sha256(salt + content.encode()).hexdigest()


def _problem(row: Any, number: int, previous: bytes, key: bytes) -> str | None:
    found, body, digest, salt, content = row[:5]
    if found != number:
        return "is missing"
    if not hmac.compare_digest(chained(key, previous, body), bytes(digest)):
        return "does not fit its digest and the entry before it"
    told = json.loads(body)
    if told.get("number") != number or told.keys() != _FIELDS:
        return "says of itself that it is another"
    if content is not None and _content_digest(salt, content) != told["content"]:
        return "has contents that are not those recorded"
    return None
