"""The audit's chain finds whoever changes it without the key."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.store import audit, audit_check, migrate
from gateway.store.database import engine, sessions

if TYPE_CHECKING:
    from gateway.embedded.postgres import EmbeddedPostgres

KEY = b"k" * 32


@pytest.fixture
async def name(postgres_server: EmbeddedPostgres, migrated_template: str) -> AsyncIterator[str]:
    """A chain of its own for each test."""
    await postgres_server.create_database("audit_test", template=migrated_template)
    yield "audit_test"
    await postgres_server.drop_database("audit_test")


@pytest.fixture
async def made(postgres_server: EmbeddedPostgres, name: str) -> AsyncIterator[AsyncEngine]:
    pool = engine(postgres_server.url(database=name))
    yield pool
    await pool.dispose()


@pytest.fixture
async def forger(postgres_server: EmbeddedPostgres, name: str) -> AsyncIterator[asyncpg.Connection]:
    """A superuser without the key."""
    connection = await asyncpg.connect(postgres_server.url("postgres", name))
    yield connection
    await connection.close()


async def write(made: AsyncEngine, count: int, **changes: Any) -> None:
    for number in range(count):
        async with made.begin() as connection:
            values = {
                "before": {"amount": number},
                "after": {"amount": number + 1, "name": "Zoë\0"},
                "reason": "more",
            }
            await audit.append(
                connection,
                key=KEY,
                actor="u_1",
                action="limit.change",
                object_kind="limit",
                object_id=f"l_{number}",
                **(values | changes),
            )


async def check(made: AsyncEngine, known: audit.Head | None = None) -> audit_check.Verdict:
    async with made.connect() as connection:
        return await audit_check.verify(connection, KEY, known=() if known is None else (known,))


async def test_an_honest_chain_verifies_and_can_be_read(
    made: AsyncEngine, forger: asyncpg.Connection
) -> None:
    await write(made, 5)
    verdict = await check(made)
    assert (verdict.entries, verdict.bad, verdict.erased, verdict.head.number) == (5, None, 0, 5)
    row = await forger.fetchrow(
        "SELECT * FROM gateway.audit_entries NATURAL JOIN gateway.audit_contents WHERE number = 2"
    )
    assert (row["actor"], row["action"], row["object_id"], row["reason"]) == (
        "u_1",
        "limit.change",
        "l_1",
        "more",
    )
    assert json.loads(row["before"]) == {"amount": 1}
    assert json.loads(row["after"])["name"] == "Zoë\ufffd"
    assert abs((row["at"] - await forger.fetchval("SELECT now()")).total_seconds()) < 60


async def test_an_entry_is_there_only_if_its_change_is(made: AsyncEngine) -> None:
    with pytest.raises(RuntimeError):
        async with sessions(made)() as session, session.begin():
            await audit.append(session, key=KEY, actor="u", action="a", object_kind="k", object_id="o")
            raise RuntimeError("the change failed")
    assert (await check(made)).entries == 0


async def test_changes_at_once_make_one_chain(made: AsyncEngine) -> None:
    await asyncio.gather(*(write(made, 10) for _ in range(4)))
    verdict = await check(made)
    assert (verdict.entries, verdict.bad) == (40, None)


async def test_contents_can_be_erased_and_the_chain_still_holds(
    made: AsyncEngine, forger: asyncpg.Connection
) -> None:
    await write(made, 3)
    await forger.execute("DELETE FROM gateway.audit_contents WHERE number = 2")
    verdict = await check(made)
    assert (verdict.bad, verdict.erased) == (None, 1)


async def test_what_was_cut_off_the_end_is_found_against_an_exported_head(
    made: AsyncEngine, forger: asyncpg.Connection
) -> None:
    await write(made, 5)
    head = (await check(made)).head
    await forger.execute("DELETE FROM gateway.audit_contents WHERE number > 3")
    await forger.execute("DELETE FROM gateway.audit_entries WHERE number > 3")
    assert (await check(made)).bad is None
    assert (await check(made, head)).bad == 4


async def test_another_key_finds_nothing_right(made: AsyncEngine) -> None:
    await write(made, 2)
    async with made.connect() as connection:
        assert (await audit_check.verify(connection, b"x" * 32)).bad == 1


async def test_the_schema_of_the_chain_is_the_current_one(
    made: AsyncEngine, postgres_server: EmbeddedPostgres, name: str
) -> None:
    await migrate.require_current(postgres_server.url(database=name))
