"""The past as the books have it: admitted calls of the ledger and single refusals of the audit, in the order of decision.

Read row by row from one snapshot of the database, so that a long period takes no more memory than a short one.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import asyncpg

from policies.replaying import Key, Past, Use, Verdict
from policies.weighing import Ask

SINGLY = ("rate_limit_exceeded", "insufficient_quota", "permission_denied")
"""Codes of refusals that a policy makes."""
_AT_ONCE = 1000
_ADMITTED = """
    SELECT request_id::text AS id, round(extract(epoch FROM admitted_at) * 1000)::int8 AS at_ms, sequence, snapshot_version,
           principal_id, principal_name, key_id, group_id, endpoint_id, endpoint_name, estimated_prompt_tokens,
           granted_output_tokens, charges, weighed, round(extract(epoch FROM ended_at) * 1000)::int8 AS ended_ms,
           prompt_tokens, completion_tokens, cost_nano_usd, degraded
    FROM gateway.requests
    WHERE request_id >= gateway.uuid7_floor($1::timestamptz - interval '1 day')
      AND request_id < gateway.uuid7_floor($2::timestamptz + interval '1 day') AND admitted_at >= $1 AND admitted_at < $2
    ORDER BY admitted_at, sequence, request_id
"""
_REFUSED = """
    SELECT content::jsonb AS content, at FROM gateway.audit_refusals
    WHERE at >= $1::timestamptz - interval '1 minute' AND at < $2::timestamptz + interval '1 minute' AND span_ms = 0
      AND plane = 'data' AND code = ANY($3) AND content::jsonb ? 'turned'
    ORDER BY (content::jsonb -> 'turned' ->> 'decided_ms')::int8, seal, position
"""
_COUNTED = """
    SELECT coalesce(sum(count), 0)::int8 FROM gateway.audit_refusals
    WHERE at >= $1 AND at < $2 AND plane = 'data' AND code = ANY($3) AND (span_ms > 0 OR NOT content::jsonb ? 'turned')
"""
_KEYS = "SELECT from_change, to_change, endpoints, counts_as FROM gateway.api_keys WHERE id = $1 ORDER BY from_change"
_WATERMARK = """
    SELECT coalesce(min(complete_until) FILTER (WHERE closed_at IS NULL), now() - interval '1 second') FROM gateway.spool_positions
"""
_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL statement_timeout = '1h'; SET LOCAL work_mem = '64MB'"


@dataclass(frozen=True, slots=True)
class Recorded:
    """A call, and the number of the configuration that decided it."""

    past: Past
    snapshot_version: int


@dataclass(slots=True)
class Books:
    """One moment of the books."""

    connection: asyncpg.Connection
    _keys: dict[str, list[tuple[int, int | None, Key]]] = field(
        default_factory=dict[str, list[tuple[int, int | None, Key]]]
    )

    async def open(self) -> None:
        """Begin to read; the connection is to be closed afterwards."""
        await self.connection.set_type_codec(
            "jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads
        )
        await self.connection.execute(_SNAPSHOT)

    async def complete_until(self) -> datetime:
        """Everything that was admitted before has arrived from every known spool."""
        found: datetime | None = await self.connection.fetchval(_WATERMARK)
        assert found is not None
        return found

    async def counted(self, start: datetime, end: datetime) -> int:
        """Refusals of the period that are on record as a count, or without what was decided about."""
        return await self.connection.fetchval(_COUNTED, start, end, list(SINGLY)) or 0

    async def first(self) -> datetime | None:
        """The first admission that is in the ledger."""
        return await self.connection.fetchval(
            "SELECT admitted_at FROM gateway.requests ORDER BY request_id LIMIT 1"
        )

    async def calls(self, start: datetime, end: datetime, *, present_keys: bool) -> AsyncGenerator[Recorded]:
        """All calls of a period; keys as they are now, or as they were."""
        start_ms, end_ms = round(start.timestamp() * 1000), round(end.timestamp() * 1000)
        admitted = self._cursor(_ADMITTED, start, end)
        refused = self._cursor(_REFUSED, start, end, list(SINGLY))
        try:
            row, other = await anext(admitted, None), await anext(refused, None)
            while row is not None or other is not None:
                # Of one millisecond the admissions come first: a refusal tells what it saw, and changed nothing.
                if other is None or (row is not None and row["at_ms"] <= _decided(other)):
                    assert row is not None
                    yield await self._admission(row, present_keys)
                    row = await anext(admitted, None)
                else:
                    if start_ms <= _decided(other) < end_ms:
                        yield await self._refusal(other["content"], present_keys)
                    other = await anext(refused, None)
        finally:
            await admitted.aclose()
            await refused.aclose()

    async def _cursor(self, statement: str, *arguments: object) -> AsyncGenerator[asyncpg.Record]:
        cursor = await self.connection.cursor(statement, *arguments)
        while rows := await cursor.fetch(_AT_ONCE):
            for row in rows:
                yield row

    async def _admission(self, row: asyncpg.Record, present_keys: bool) -> Recorded:
        weighed: dict[str, Any] = row["weighed"] or {}
        output = weighed.get("granted", row["granted_output_tokens"])
        past = Past(
            id=row["id"],
            at_ms=row["at_ms"],
            principal_id=row["principal_id"],
            principal_name=row["principal_name"],
            endpoint_id=row["endpoint_id"],
            endpoint_name=row["endpoint_name"],
            key=None,
            ask=Ask(
                row["estimated_prompt_tokens"], weighed.get("output", output), weighed.get("least", output)
            ),
            **_circumstances(weighed),
            normal=bool(weighed) and row["degraded"] is None,
            was=Verdict(True, group_id=row["group_id"], output=output),
            charged=frozenset((each["limit"], each["subject"]) for each in row["charges"]),
            use=Use(row["ended_ms"], row["prompt_tokens"], row["completion_tokens"], row["cost_nano_usd"]),
        )
        return await self._with_key(past, row["key_id"], row["snapshot_version"], present_keys)

    async def _refusal(self, content: dict[str, Any], present_keys: bool) -> Recorded:
        turned: dict[str, Any] = content["turned"]
        past = Past(
            id="",
            at_ms=turned["decided_ms"],
            principal_id=content["principal_id"],
            principal_name="",
            endpoint_id=turned["endpoint_id"],
            endpoint_name=content["asked"] or "",
            key=None,
            ask=Ask(turned["prompt_tokens"], turned["output"], turned["least"]),
            **_circumstances(turned),
            normal=True,
            was=Verdict(False, content["code"], content["limit_id"]),
            charged=frozenset(),
            use=None,
        )
        return await self._with_key(past, turned["key_id"], turned["snapshot_version"], present_keys)

    async def _with_key(self, past: Past, key_id: str | None, version: int, present_keys: bool) -> Recorded:
        if key_id is None:
            return Recorded(past, version)
        versions = self._keys.get(key_id)
        if versions is None:
            versions = self._keys[key_id] = [
                (
                    row["from_change"],
                    row["to_change"],
                    Key(
                        key_id,
                        None
                        if row["endpoints"] is None
                        else frozenset(str(each) for each in row["endpoints"]),
                        None if row["counts_as"] is None else str(row["counts_as"]),
                    ),
                )
                for row in await self.connection.fetch(_KEYS, key_id)
            ]
        held = [
            key for since, until, key in versions if since <= version and (until is None or version < until)
        ]
        if not versions:
            return Recorded(replace(past, key=Key(key_id, None, None)), version)
        # A key may be newer than the configuration that a worker had: keys are found on first use.
        return Recorded(replace(past, key=held[0] if held and not present_keys else versions[-1][2]), version)


def _decided(row: asyncpg.Record) -> int:
    return row["content"]["turned"]["decided_ms"]


def _circumstances(weighed: dict[str, Any]) -> dict[str, Any]:
    groups = weighed.get("groups")
    return {
        "group": weighed.get("group"),
        "groups": None if groups is None else tuple(groups),
        "share_percent": weighed.get("share_percent", 100),
        "seen": tuple(weighed.get("seen", ())),
    }
