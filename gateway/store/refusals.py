"""Seals refusals into the audit: their rows, and one entry of the chain that stands for all of a second's.

The chain is held for the entry alone, after the rows are in, so that no administrative change waits for a flood. What
is handed over twice is sealed once.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.ids import RequestIds
from gateway.ids import text as id_text
from gateway.spool.books import Away, Refused
from gateway.spool.records import Refusal, Turned
from gateway.store import audit
from gateway.store.database import AWAY

_DONE = text("SELECT number FROM gateway.refusals_sealed WHERE spool_id = :spool FOR UPDATE")
_DO = text("""
    INSERT INTO gateway.refusals_sealed (spool_id, number) VALUES (:spool, :number)
    ON CONFLICT (spool_id) DO UPDATE SET number = excluded.number
""")
_ROWS = text("""
    INSERT INTO gateway.audit_refusals (seal, position, digest, salt, content)
    SELECT CAST(:seal AS uuid), position, digest, salt, content
    FROM unnest(CAST(:digests AS bytea[]), CAST(:salts AS bytea[]), CAST(:contents AS text[]))
         WITH ORDINALITY AS given(digest, salt, content, position)
""")


class RefusalSeals:
    """The port Seals."""

    def __init__(self, engine: AsyncEngine, key: bytes) -> None:
        self._engine = engine
        self._key = key
        self._ids = RequestIds()

    async def seal(self, refusals: Mapping[UUID, Sequence[Refusal]]) -> int:
        """Seal what is new of each spool's refusals in one transaction; how many that was. Raises Away, Refused."""
        try:
            async with self._engine.begin() as connection:
                contents: list[str] = []
                for spool, each in sorted(refusals.items()):
                    done = await connection.scalar(_DONE, {"spool": spool}) or 0
                    new = [refusal for refusal in each if refusal.number > done]
                    if new:
                        contents += map(_content, new)
                        await connection.execute(_DO, {"spool": spool, "number": new[-1].number})
                if not contents:
                    return 0
                salts = [secrets.token_bytes(16) for _ in contents]
                digests = [audit.salted(*pair) for pair in zip(salts, contents, strict=True)]
                seal = id_text(self._ids.make())
                given = {"seal": seal, "digests": digests, "salts": salts, "contents": contents}
                await connection.execute(_ROWS, given)
                await audit.append_seal(connection, key=self._key, seal=seal, digests=b"".join(digests))
                return len(contents)
        except DBAPIError as exc:
            cause = None if exc.orig is None else exc.orig.__cause__
            if (
                exc.connection_invalidated
                or isinstance(cause, AWAY)
                or not isinstance(cause, asyncpg.PostgresError)
            ):
                raise Away(f"{type(exc).__name__}: {exc}") from exc
            # Waiting would not help, and the ledger must not wait for the audit.
            raise Refused(str(cause)) from exc
        except (PoolTimeout, TimeoutError, *AWAY) as exc:
            raise Away(f"{type(exc).__name__}: {exc}") from exc


def _content(refusal: Refusal) -> str:
    return audit.canonical(
        {
            "at_ms": refusal.at_ms,
            "span_ms": refusal.span_ms,
            "count": refusal.count,
            "plane": refusal.plane,
            "code": refusal.code,
            "limit_id": refusal.limit_id,
            "principal_id": refusal.principal_id,
            "asked": refusal.asked,
            "address": refusal.address,
            **({} if refusal.turned is None else {"turned": _turned(refusal.turned)}),
        }
    )


def _turned(turned: Turned) -> dict[str, Any]:
    """What was decided about, by name."""
    return {
        **{name: getattr(turned, name) for name in turned.__struct_fields__ if name != "weighed"},
        **{name: getattr(turned.weighed, name) for name in turned.weighed.__struct_fields__},
    }
