"""One verification from end to end: the books in one snapshot, the counters, the audit.

Nothing is written and nobody waits for it, so that it may run at any time beside everything else.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import asyncpg

from gateway.settings import Settings
from gateway.store import audit_check, database
from gateway.store.audit_heads import ForgedHead, read_heads
from gateway.store.catalog import FollowedCatalog
from gateway.verify.books import check_books
from gateway.verify.counters import check_counters
from gateway.verify.findings import Check, Report

_SECONDS = 3600.0
_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL statement_timeout = '1h'; SET LOCAL work_mem = '64MB'"
_WATERMARK = """
    SELECT coalesce(min(complete_until) FILTER (WHERE closed_at IS NULL), now() - interval '1 second') AS until,
        (SELECT array_agg(spool_id::text || ' of ' || host || ' (last heard of ' || to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') || 'Z)')
         FROM gateway.spool_positions WHERE closed_at IS NULL AND updated_at < now() - interval '5 minutes') AS silent
    FROM gateway.spool_positions
"""


async def verify(
    settings: Settings,
    url: str,
    redis_url: str | None,
    keys: Sequence[bytes],
    *,
    audit_only: bool,
    heads: Path,
) -> Report:
    """Look at everything, or at the audit alone; raises what the database raises where it is away."""
    started, began = datetime.now(UTC), time.monotonic()
    checks: list[Check] = []
    watermark: datetime | None = None
    if not audit_only:
        connection = await database.connect(
            url, application_name="weighbridge-verify", statement_seconds=_SECONDS
        )
        try:
            await connection.set_type_codec(
                "jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads
            )
            watermark, checks = await _books(connection, settings)
            if redis_url is not None:
                checks.append(await _counters(connection, url, redis_url))
        finally:
            await connection.close(timeout=2)
    checks.append(await check_audit(url, keys, heads))
    return Report(started, time.monotonic() - began, watermark, checks)


async def check_audit(url: str, keys: Sequence[bytes], heads: Path) -> Check:
    """Follow the chain, against the heads that were exported to a file."""
    check = Check("audit", "Audit's chain")
    try:
        known = read_heads(heads, keys)
    except ForgedHead as error:
        check.found("exported heads", str(error))
        known = []
    engine = database.engine(url, application_name="weighbridge-verify", size=0, statement_seconds=_SECONDS)
    try:
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            verdict = await audit_check.verify(connection, keys, known=known)
    finally:
        await engine.dispose()
    check.looked_at = verdict.entries + verdict.refusals
    if verdict.problem is not None:
        check.found("refusals" if verdict.bad is None else f"entry {verdict.bad}", verdict.problem)
    check.notes.append(
        f"{verdict.entries:,} entries, {verdict.refusals:,} refusals sealed, {len(known):,} exported heads fit"
        if verdict.problem is None
        else f"{verdict.entries:,} entries before it are good"
    )
    if verdict.erased:
        check.notes.append(f"the contents of {verdict.erased:,} were erased; their digests stand")
    if verdict.unrecorded:
        check.notes.append(f"of {verdict.unrecorded:,} entries no later entry says that they were erased")
    return check


async def _books(connection: asyncpg.Connection, settings: Settings) -> tuple[datetime, list[Check]]:
    await connection.execute(_SNAPSHOT)
    try:
        row = await connection.fetchrow(_WATERMARK)
        assert row is not None
        checks = await check_books(connection, row["until"])
    finally:
        await connection.execute("ROLLBACK")
    spools = next(each for each in checks if each.name == "spools")
    spools.notes += [f"not drained: spool {each}" for each in row["silent"] or ()]
    aside = sum(1 for _ in (settings.spool_dir / "quarantine").glob("*.seg"))
    if aside:
        spools.notes.append(
            f"{aside} requests lie in {settings.spool_dir / 'quarantine'} and not in the ledger"
        )
    return row["until"], checks


async def _counters(connection: asyncpg.Connection, url: str, redis_url: str) -> Check:
    catalog = FollowedCatalog(url)
    await catalog.start()
    try:
        return await check_counters(connection, redis_url, catalog.snapshot.budgets)
    finally:
        await catalog.stop()
