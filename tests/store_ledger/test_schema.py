"""The schema that revisions make is the one the code describes, and the application may do with it what it must."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection

from gateway.store import migrate
from gateway.store.tables import everything
from gateway.store.tables.ledger import is_partition
from tests.spool.making import id_at

if TYPE_CHECKING:
    from gateway.embedded.postgres import EmbeddedPostgres


@pytest.fixture
async def empty_url(postgres_server: EmbeddedPostgres) -> AsyncIterator[str]:
    """A database of its own, as its owner."""
    yield await postgres_server.create_database("schema_test")
    await postgres_server.drop_database("schema_test")


@pytest.fixture
async def owner(owner_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(owner_url)
    yield connection
    await connection.close()


def differences(connection: Connection) -> list[Any]:
    def included(item: object, name: str | None, kind: str, reflected: bool, to: object) -> bool:
        return not (kind == "table" and reflected and is_partition(name or ""))

    context = MigrationContext.configure(
        connection,
        opts={
            "include_schemas": True,
            "include_name": lambda name, kind, parents: kind != "schema" or name == "gateway",
            "include_object": included,
            "version_table": migrate.VERSION_TABLE,
            "version_table_schema": "gateway",
            "compare_server_default": True,
        },
    )
    return compare_metadata(context, everything.metadata)


async def test_the_tables_are_those_that_the_code_describes(owner_url: str) -> None:
    async with migrate.owner_connection(owner_url) as connection:
        assert await connection.run_sync(differences) == []


async def test_every_column_says_what_it_is(owner: asyncpg.Connection) -> None:
    silent = await owner.fetch("""
        SELECT relname, attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE relnamespace = 'gateway'::regnamespace AND relkind IN ('r', 'p') AND relname <> 'alembic_version'
          AND attnum > 0 AND NOT attisdropped AND col_description(attrelid, attnum) IS NULL
          AND relname !~ '_default$'
    """)
    assert silent == []


async def test_upgrades_that_start_at_once_come_one_after_the_other(empty_url: str) -> None:
    assert await migrate.current(empty_url) is None
    await asyncio.gather(*(migrate.upgrade(empty_url) for _ in range(3)))
    assert await migrate.current(empty_url) == migrate.head()


async def test_revisions_can_be_undone_and_done_again(empty_url: str) -> None:
    await migrate.upgrade(empty_url)
    await migrate.downgrade(empty_url, "base")
    assert await migrate.current(empty_url) is None
    await migrate.upgrade(empty_url)
    await migrate.require_current(empty_url)


async def test_another_schema_than_ours_is_refused_with_what_to_do(empty_url: str) -> None:
    with pytest.raises(migrate.SchemaError, match="run `weighbridge migrate`"):
        await migrate.require_current(empty_url)
    await migrate.upgrade(empty_url)
    connection = await asyncpg.connect(empty_url)
    await connection.execute("UPDATE gateway.alembic_version SET version_num = '0001'")
    with pytest.raises(migrate.SchemaError, match=r"is at 0001.*run `weighbridge migrate`"):
        await migrate.require_current(empty_url)
    await connection.execute("UPDATE gateway.alembic_version SET version_num = '9999'")
    with pytest.raises(migrate.SchemaError, match="newer version"):
        await migrate.require_current(empty_url)
    await connection.close()


async def test_a_login_of_another_name_gets_the_applications_rights(
    postgres_server: EmbeddedPostgres, empty_url: str
) -> None:
    superuser = await asyncpg.connect(postgres_server.url("postgres", "schema_test"))
    await superuser.execute("CREATE ROLE weighbridge_other LOGIN")
    await superuser.execute("GRANT CONNECT ON DATABASE schema_test TO weighbridge_other")
    try:
        other = postgres_server.url("weighbridge_other", "schema_test")
        with pytest.raises(migrate.SchemaError, match="GRANT weighbridge_app TO"):
            await migrate.upgrade(empty_url, other)
        # The owner of a server of one's own may hand the role on.
        await superuser.execute("GRANT weighbridge_app TO weighbridge_owner WITH ADMIN OPTION")
        await migrate.upgrade(empty_url, other)
        await migrate.require_current(other)
    finally:
        await superuser.execute("REVOKE weighbridge_app FROM weighbridge_owner CASCADE")
        await superuser.execute("DROP OWNED BY weighbridge_other")
        await superuser.execute("DROP ROLE weighbridge_other")
        await superuser.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE gateway.requests SET cost_nano_usd = 0",
        "DELETE FROM gateway.requests",
        "TRUNCATE gateway.attempts",
        "UPDATE gateway.attempts SET borne = false",
        "DELETE FROM gateway.usage_hour",
        "UPDATE gateway.audit_entries SET body = ''",
        "DELETE FROM gateway.audit_entries",
        "DELETE FROM gateway.audit_contents",
        "UPDATE gateway.audit_contents SET content = ''",
        "DROP TABLE gateway.requests",
        "CREATE TABLE gateway.mine (id int)",
        "DELETE FROM gateway.requests_default",
        "SELECT * FROM gateway.requests_default",
        "UPDATE gateway.alembic_version SET version_num = '0'",
    ],
)
async def test_the_application_can_neither_edit_nor_take_away(
    database: asyncpg.Connection, statement: str
) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await database.execute(statement)


def week_of(at: datetime) -> str:
    monday = datetime.fromordinal(at.toordinal() - at.weekday())
    return monday.strftime("%Y%m%d")


async def insert(database: asyncpg.Connection, request_id: bytes, at: datetime) -> str:
    """Insert a bare attempt; the partition it went to."""
    await database.execute(
        """
        INSERT INTO gateway.attempts (request_id, attempt, admitted_at, started_at, entity_id, entity_name, model, outcome,
            fresh_input, cache_read, cache_write, output, reasoning, usage_source, price_id, cost_nano_usd, borne, duration_us)
        VALUES ($1, 1, $2, $2, '', '', '', 'ok', 1, 2, 3, 4, 5, 'reported', '', 0, true, 0)
        """,
        request_id.hex(),
        at,
    )
    where = "SELECT tableoid::regclass::text FROM gateway.attempts WHERE request_id = $1"
    return (await database.fetchval(where, request_id.hex())).removeprefix("gateway.attempts_")


async def test_rows_go_to_the_week_of_their_id_to_the_millisecond(database: asyncpg.Connection) -> None:
    await database.execute(
        "SELECT gateway.make_partitions($1, $2)",
        datetime(2027, 12, 20, tzinfo=UTC),
        datetime(2028, 3, 6, tzinfo=UTC),
    )
    # Edges of a week, of a month inside a week, and of a year inside one.
    for edge in (
        datetime(2028, 1, 3, tzinfo=UTC),
        datetime(2028, 2, 1, tzinfo=UTC),
        datetime(2028, 1, 1, tzinfo=UTC),
        datetime(2028, 2, 28, tzinfo=UTC),
    ):
        ms = int(edge.timestamp() * 1000)
        for at in (ms - 1, ms):
            moment = datetime.fromtimestamp(at / 1000, UTC)
            assert await insert(database, id_at(at), moment) == week_of(moment)


async def test_what_came_before_its_partition_moves_into_it(database: asyncpg.Connection) -> None:
    at = datetime(2030, 5, 1, 12, tzinfo=UTC)
    request_id = id_at(int(at.timestamp() * 1000))
    assert await insert(database, request_id, at) == "default"
    made = await database.fetchval("SELECT gateway.make_partitions($1, $2)", at, at)
    assert made == 2
    row = await database.fetchrow(
        "SELECT tableoid::regclass::text AS place, prompt_tokens, completion_tokens FROM gateway.attempts WHERE request_id = $1",
        request_id.hex(),
    )
    assert (row["place"], row["prompt_tokens"], row["completion_tokens"]) == (
        "gateway.attempts_20300429",
        6,
        9,
    )
    assert await database.fetchval("SELECT gateway.make_partitions($1, $2)", at, at) == 0


async def test_partitions_are_made_ahead(database: asyncpg.Connection) -> None:
    ahead = await database.fetchval(
        "SELECT max(to_date(right(relname, 8), 'YYYYMMDD')) - current_date FROM pg_class WHERE relkind = 'r' AND relname ~ '^requests_2026|^requests_2027'"
    )
    assert ahead >= 21
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await database.execute("SELECT gateway.make_partitions('2000-01-01', '2100-01-01')")
