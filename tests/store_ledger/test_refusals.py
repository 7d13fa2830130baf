"""Refusals go through the spool into the audit, once each, and can be erased without breaking the chain."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.spool.drainer import Drainer
from gateway.spool.writer import SpoolWriter
from gateway.store import audit, audit_check
from gateway.store.database import engine
from gateway.store.ledger import PostgresBooks
from gateway.store.refusals import RefusalSeals
from tests.spool.making import intent, settlement
from tests.store_ledger.books_check import drain
from tests.store_ledger.test_audit import KEY
from tests.store_ledger.test_forgeries import refusal


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[AsyncEngine]:
    made = engine(database_url, size=3)
    yield made
    await made.dispose()


async def verified(pool: AsyncEngine) -> audit_check.Verdict:
    async with pool.connect() as connection:
        return await audit_check.verify(connection, KEY)


async def count(database: asyncpg.Connection) -> int:
    return await database.fetchval("SELECT count(*) FROM gateway.audit_refusals") or 0


async def test_refusals_are_sealed_in_their_order_beside_what_is_posted(
    tmp_path: Path, spool: SpoolWriter, books: PostgresBooks, pool: AsyncEngine, database: asyncpg.Connection
) -> None:
    before = await verified(pool)
    begun = intent()
    spool.append(refusal(1, asked="Zoë\0"))
    spool.append(begun)
    spool.append(refusal(2, code="rate_limit_exceeded", limit_id="l_1", count=240, span_ms=1000, asked=None))
    spool.append(settlement(begun))
    spool.append(refusal(3, principal_id=None, address="192.0.2.7", count=17, span_ms=60_000))
    spool.close()
    await drain(Drainer(tmp_path, books, seals=RefusalSeals(pool, KEY)))
    verdict = await verified(pool)
    assert (verdict.problem, verdict.refusals - before.refusals, verdict.entries - before.entries) == (
        None,
        3,
        1,
    )
    rows = await database.fetch(
        "SELECT refusal.* FROM gateway.audit_refusals AS refusal JOIN gateway.audit_entries ON object_id = seal::text"
        " WHERE number = $1 ORDER BY position",
        verdict.head.number,
    )
    assert [(row["count"], row["span_ms"], row["code"], row["limit_id"]) for row in rows] == [
        (1, 0, "permission_denied", None),
        (240, 1000, "rate_limit_exceeded", "l_1"),
        (17, 60_000, "permission_denied", None),
    ]
    assert [(row["principal_id"], row["asked"], row["address"]) for row in rows] == [
        ("u_1", "Zoë\ufffd", None),
        ("u_1", None, None),
        (None, "chat", "192.0.2.7"),
    ]
    assert rows[0]["at"].timestamp() == pytest.approx(1_800_000_000.001)


async def test_a_spool_that_is_read_twice_seals_its_refusals_once(
    tmp_path: Path, spool: SpoolWriter, books: PostgresBooks, pool: AsyncEngine, database: asyncpg.Connection
) -> None:
    before = await count(database)
    # An open request holds the position back, so that what follows is read again by the next drainer.
    spool.append(intent())
    for number in range(1, 8):
        spool.append(refusal(number))
    first = Drainer(tmp_path, books, seals=RefusalSeals(pool, KEY))
    await drain(first)
    first.close()
    spool.append(refusal(8))
    second = Drainer(tmp_path, books, seals=RefusalSeals(pool, KEY))
    await drain(second)
    assert second.state.sealed == 1
    assert await count(database) - before == 8
    spool.close()
    await drain(second)
    second.close()
    assert (await verified(pool)).problem is None


async def test_erasing_a_refusal_leaves_its_digest_and_a_chain_that_holds(
    pool: AsyncEngine, owner_url: str, database: asyncpg.Connection, spool: SpoolWriter
) -> None:
    await RefusalSeals(pool, KEY).seal({spool.worker_id: [refusal(1), refusal(2)]})
    spool.close()
    erased = (await verified(pool)).erased
    owner = await asyncpg.connect(owner_url)
    await owner.execute("""
        UPDATE gateway.audit_refusals SET salt = NULL, content = NULL WHERE position = 2 AND seal::text =
            (SELECT object_id FROM gateway.audit_entries ORDER BY number DESC LIMIT 1)
    """)
    await owner.close()
    verdict = await verified(pool)
    assert (verdict.problem, verdict.erased) == (None, erased + 1)


async def test_what_is_shown_of_a_refusal_follows_from_its_content_whatever_is_written(
    pool: AsyncEngine, owner_url: str, database: asyncpg.Connection, spool: SpoolWriter
) -> None:
    await RefusalSeals(pool, KEY).seal({spool.worker_id: [refusal(1), refusal(2)]})
    spool.close()
    last = "seal::text = (SELECT object_id FROM gateway.audit_entries ORDER BY number DESC LIMIT 1)"
    first, second = (f"{last} AND position = {position}" for position in (1, 2))
    owner = await asyncpg.connect(owner_url)
    shown = await owner.fetch(f"SELECT * FROM gateway.audit_refusals WHERE {last} ORDER BY position")
    await owner.execute(f"UPDATE gateway.audit_refusals SET code = 'not_found', at = now() WHERE {first}")
    assert await owner.fetch(f"SELECT * FROM gateway.audit_refusals WHERE {last} ORDER BY position") == shown
    await owner.execute(f"UPDATE gateway.audit_refusals SET salt = NULL, content = NULL WHERE {second}")
    assert (await verified(pool)).problem is None
    for place, forged, word in (
        (first, "code = 'not_found'", "shown otherwise"),
        (second, "code = 'not_found'", "shown and was erased"),
    ):
        # Who takes the trigger away is found by the check.
        async with owner.transaction():
            await owner.execute("ALTER TABLE gateway.audit_refusals DISABLE TRIGGER shown")
            await owner.execute(f"UPDATE gateway.audit_refusals SET {forged} WHERE {place}")
            await owner.execute("ALTER TABLE gateway.audit_refusals ENABLE TRIGGER shown")
        assert word in ((await verified(pool)).problem or "")
        # The trigger puts it right again.
        await owner.execute(f"UPDATE gateway.audit_refusals SET code = NULL WHERE {place}")
    assert (await verified(pool)).problem is None
    await owner.close()


async def test_a_flood_of_refusals_and_changes_at_once_make_one_chain(
    pool: AsyncEngine, database: asyncpg.Connection, spool: SpoolWriter
) -> None:
    seals, before = RefusalSeals(pool, KEY), await verified(pool)

    async def flood() -> None:
        for batch in range(3):
            first = batch * 1000 + 1
            await seals.seal({spool.worker_id: [refusal(first + each) for each in range(1000)]})

    async def change(number: int) -> None:
        async with pool.begin() as connection:
            await audit.append(
                connection, key=KEY, actor="u", action="a.b", object_kind="a", object_id=str(number)
            )

    await asyncio.gather(flood(), *(change(number) for number in range(10)))
    spool.close()
    verdict = await verified(pool)
    assert verdict.problem is None
    assert (verdict.entries - before.entries, verdict.refusals - before.refusals) == (13, 3000)
    body = await database.fetchval(
        "SELECT body FROM gateway.audit_entries WHERE action = 'refusals.seal' LIMIT 1"
    )
    assert json.loads(body or "")["object_kind"] == "refusals"


async def test_what_the_audit_does_not_take_holds_nothing_up(
    tmp_path: Path, spool: SpoolWriter, books: PostgresBooks, pool: AsyncEngine, database: asyncpg.Connection
) -> None:
    before = await database.fetchval("SELECT count(*) FROM gateway.requests") or 0
    begun = intent()
    # A count that no column can hold.
    for record in (refusal(1, count=1 << 63), begun, settlement(begun)):
        spool.append(record)
    spool.close()
    drainer = Drainer(tmp_path, books, seals=RefusalSeals(pool, KEY))
    await drain(drainer)
    drainer.close()
    assert await database.fetchval("SELECT count(*) FROM gateway.requests") == before + 1
    assert (await verified(pool)).problem is None
