"""Changes that are made once: the answer is kept in the transaction of the change, under its caller's own key.

A change that fails leaves nothing here either, so the same key may be sent again; of two at the same time one is
turned away. What is told of the request is a keyed digest, which nobody can try guesses on.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from sqlalchemy import delete, func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import IdempotencyConflict
from gateway.store.tables.made_once import changes_made_once

KEPT = text("interval '24 hours'")


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered to a change, without what is shown once only."""

    status: int
    etag: str | None
    body: bytes


class Replayed(Exception):
    """The change was made before: this is what was answered."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Claim:
    """One caller's wish that a request changes something once."""

    principal_id: str
    key: str
    digest: bytes


def claim(chain_key: bytes, principal_id: str, key: str, request: bytes) -> Claim:
    """The claim for a request, given as the bytes that tell it from others."""
    return Claim(principal_id, key, hmac.digest(chain_key, b"made once:" + request, "sha256"))


async def turn_away(connection: AsyncConnection, wanted: Claim) -> None:
    """Raise IdempotencyConflict while a change under the same key is being made; holds it until the transaction ends."""
    free = await connection.scalar(
        text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 5742))"),
        {"name": f"{wanted.principal_id} {wanted.key}"},
    )
    if not free:
        raise IdempotencyConflict("in_flight")


async def require_new(connection: AsyncConnection, wanted: Claim) -> None:
    """Raise Replayed where the change was made before, IdempotencyConflict where another request had the key."""
    table = changes_made_once
    row = (
        await connection.execute(
            select(table).where(
                table.c.principal_id == wanted.principal_id,
                table.c.key == wanted.key,
                table.c.made_at > func.now() - KEPT,
            )
        )
    ).one_or_none()
    if row is None:
        return
    if not hmac.compare_digest(bytes(row.digest), wanted.digest):
        raise IdempotencyConflict("other_body")
    raise Replayed(Answer(row.status, row.etag, bytes(row.body)))


async def keep(connection: AsyncConnection, wanted: Claim, answer: Answer) -> None:
    """Keep the answer with the change; forget what is older than a day."""
    table = changes_made_once
    await connection.execute(delete(table).where(table.c.made_at <= func.now() - KEPT))
    await connection.execute(
        insert(table).values(
            principal_id=wanted.principal_id,
            key=wanted.key,
            digest=wanted.digest,
            status=answer.status,
            etag=answer.etag,
            body=answer.body,
        )
    )
