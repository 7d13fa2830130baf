"""The audit's chain: what is appended to it, in the transaction of what it records.

An entry's digest covers the digest before it and the exact text that is stored, under a key that is not in the
database: whoever edits, removes, inserts or reorders entries without the key is found by `audit_check`.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

GENESIS = bytes(32)
SEAL = "refusals.seal"
"""Action of an entry that stands for the refusals of a second; their digests are what it digests."""
ERASE = "audit.erase"
"""Action of an entry that says that another's contents were erased."""
HOLD = text(f"SELECT pg_advisory_xact_lock({0x5742_0002})")
"""Holds the chain until the transaction ends."""

Scope = AsyncConnection | AsyncSession

_HEAD = text("""
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8, number, digest
    FROM (VALUES (true)) AS once LEFT JOIN (
        SELECT number, digest FROM gateway.audit_entries ORDER BY number DESC LIMIT 1
    ) AS last ON true
""")
_ENTRY = text("INSERT INTO gateway.audit_entries (number, body, digest) VALUES (:number, :body, :digest)")
_ENTRY_AND_CONTENT = text("""
    WITH entry AS (
        INSERT INTO gateway.audit_entries (number, body, digest) VALUES (:number, :body, :digest) RETURNING number
    )
    INSERT INTO gateway.audit_contents (number, salt, content) SELECT number, :salt, :content FROM entry
""")


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the chain at some time; kept elsewhere, it makes truncation visible."""

    number: int
    digest: bytes


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
    salt = secrets.token_bytes(16)
    content = canonical({"before": before, "after": after, "reason": reason})
    told = {"actor": actor, "action": action, "object_kind": object_kind, "object_id": object_id}
    entry = await _next(connection, key, told, salted(salt, content).hex())
    await connection.execute(_ENTRY_AND_CONTENT, entry | {"salt": salt, "content": content})
    return int(entry["number"])


async def append_seal(connection: Scope, *, key: bytes, seal: str, digests: bytes) -> int:
    """Add the entry that seals refusals, given their digests one after the other; the same transaction inserts them."""
    told = {"actor": "weighbridge", "action": SEAL, "object_kind": "refusals", "object_id": seal}
    entry = await _next(connection, key, told, sha256(digests).hexdigest())
    await connection.execute(_ENTRY, entry)
    return int(entry["number"])


async def read_head(connection: Scope) -> Head:
    """The last entry's number and digest."""
    _, number, digest = (await connection.execute(_HEAD)).one()
    return Head(0, GENESIS) if number is None else Head(number, bytes(digest))


def canonical(value: Any) -> str:
    """The one text that stands for a value: sorted keys, no spaces, no zero character, which PostgreSQL refuses."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).replace(
        "\\u0000", "\\ufffd"
    )


def chained(key: bytes, previous: bytes, body: str) -> bytes:
    """An entry's digest."""
    return hmac.digest(key, previous + body.encode(), "sha256")


def salted(salt: bytes, content: str) -> bytes:
    """What stands for a content in the chain: it says nothing of it once the salt is gone."""
    return sha256(salt + content.encode()).digest()


async def _next(connection: Scope, key: bytes, told: dict[str, str], content: str) -> dict[str, Any]:
    """The next entry, with the chain held until the transaction ends."""
    await connection.execute(HOLD)
    at_us, last, digest = (await connection.execute(_HEAD)).one()
    number = 1 if last is None else last + 1
    body = canonical({**told, "number": number, "at_us": at_us, "content": content})
    return {
        "number": number,
        "body": body,
        "digest": chained(key, GENESIS if last is None else bytes(digest), body),
    }
