"""The auditor reads the views that are meant for it, whole, and nothing else; it writes nothing anywhere.

What is tried is taken from the database's own catalog: a table, column or function that somebody adds is tried too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg
import pytest

from gateway.security.keys import Peppers
from gateway.security.sealing import Sealing
from gateway.store.api_keys import NewKey, create_key
from gateway.store.changes import Configuration
from gateway.store.migrate import upgrade
from gateway.store.principals import create_principal
from gateway.store.tables.events import webhooks
from gateway.store.tables.identity import issuers
from tests.auditor.conftest import ROOT

if TYPE_CHECKING:
    from gateway.embedded.postgres import EmbeddedPostgres

OPEN = ("serving", "access", "billing")
DENIED = (asyncpg.InsufficientPrivilegeError,)
# What the server says before it looks at rights: nobody writes through a view of several tables, or of sums.
TO_NOBODY = (asyncpg.ObjectNotInPrerequisiteStateError, asyncpg.FeatureNotSupportedError)
RELATIONS = """
    SELECT n.nspname AS schema, c.relname AS name, c.relkind::text AS kind, coalesce('security_barrier=true' = ANY(c.reloptions), false) AS barrier,
           array(SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) AS columns
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY 1, 2
"""


async def relations(owner: asyncpg.Connection) -> list[asyncpg.Record]:
    found = await owner.fetch(RELATIONS)
    assert {row["schema"] for row in found} >= {"gateway", *OPEN}
    return found


async def refused(auditor: asyncpg.Connection, statement: str) -> bool:
    try:
        await auditor.execute(statement)
    except (*DENIED, *TO_NOBODY):
        return True
    except asyncpg.ReadOnlySQLTransactionError:
        raise AssertionError(f"only the session's own setting stood in the way: {statement}") from None
    return False


@pytest.fixture
async def writer(auditor: asyncpg.Connection) -> asyncpg.Connection:
    """The auditor after it has put away what its sessions begin with, which it may."""
    await auditor.execute("SET default_transaction_read_only = off")
    return auditor


async def test_every_view_for_auditors_is_a_barrier_and_says_what_each_column_holds(
    owner: asyncpg.Connection,
) -> None:
    views = [row for row in await relations(owner) if row["schema"] in OPEN]
    assert len(views) >= 12
    assert {row["kind"] for row in views} == {"v"}
    assert [row["name"] for row in views if not row["barrier"]] == []
    silent = await owner.fetch(
        """
        SELECT c.oid::regclass, attname FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND attnum > 0
        WHERE relnamespace = ANY($1::text[]::regnamespace[]) AND relkind = 'v'
          AND (col_description(a.attrelid, a.attnum) IS NULL OR obj_description(c.oid) IS NULL)
        """,
        list(OPEN),
    )
    assert silent == []


async def test_every_column_of_its_views_can_be_read_and_none_of_any_other_table(
    owner: asyncpg.Connection, auditor: asyncpg.Connection
) -> None:
    readable = [
        f"{row['schema']}.{row['name']}.{column}"
        for row in await relations(owner)
        for column in row["columns"]
        if not await refused(auditor, f'SELECT {column} FROM {row["schema"]}."{row["name"]}" LIMIT 1')
    ]
    assert readable == [
        f"{row['schema']}.{row['name']}.{column}"
        for row in await relations(owner)
        if row["schema"] in OPEN
        for column in row["columns"]
    ]


async def test_it_can_write_to_no_relation_at_all(
    owner: asyncpg.Connection, writer: asyncpg.Connection
) -> None:
    possible: list[str] = []
    for row in await relations(owner):
        place, column = f'{row["schema"]}."{row["name"]}"', row["columns"][0]
        possible += [
            statement
            for statement in (
                f"INSERT INTO {place} ({column}) VALUES (NULL)",
                f"UPDATE {place} SET {column} = NULL",
                f"DELETE FROM {place}",
                f"TRUNCATE {place}",
                f"SELECT 1 FROM {place} FOR UPDATE",
                f"DROP {'VIEW' if row['kind'] == 'v' else 'TABLE'} {place}",
            )
            # A view takes no TRUNCATE from anybody.
            if not (statement.startswith("TRUNCATE") and row["kind"] == "v")
            and not await refused(writer, statement)
        ]
    assert possible == []


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE billing.mine (id int)",
        "CREATE TABLE public.mine (id int)",
        "CREATE TEMP TABLE mine (id int)",
        "CREATE SCHEMA mine",
        "CREATE FUNCTION access.mine() RETURNS int LANGUAGE sql RETURN 1",
        "SET ROLE weighbridge_app",
        "SET ROLE weighbridge_owner",
        "ALTER ROLE weighbridge_auditor SUPERUSER",
        "CREATE ROLE another",
        "SELECT pg_read_file('postgresql.conf')",
        "COPY billing.spend TO PROGRAM 'cat'",
        "SELECT gateway.make_partitions()",
        "SELECT rolpassword FROM pg_authid",
    ],
)
async def test_it_makes_nothing_becomes_nobody_and_reads_no_file(
    writer: asyncpg.Connection, statement: str
) -> None:
    with pytest.raises(DENIED):
        await writer.execute(statement)


async def test_of_our_functions_it_may_call_the_one_that_is_meant_for_it(
    owner: asyncpg.Connection, auditor: asyncpg.Connection
) -> None:
    callable_by_auditor = await owner.fetch("""
        SELECT p.oid::regprocedure::text AS name FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname IN ('gateway', 'serving', 'access', 'billing')
          AND has_function_privilege('weighbridge_auditor', p.oid, 'EXECUTE')
          AND has_schema_privilege('weighbridge_auditor', n.oid, 'USAGE')
    """)
    assert [row["name"] for row in callable_by_auditor] == ["access.who_can_query(timestamp with time zone)"]
    assert await auditor.fetch("SELECT * FROM access.who_can_query('2020-01-01 00:00Z')") == []


async def test_its_sessions_begin_read_only_in_utc_and_end_what_takes_a_minute(
    auditor: asyncpg.Connection,
) -> None:
    shown = {
        name: await auditor.fetchval(f"SHOW {name}")
        for name in ("statement_timeout", "default_transaction_read_only", "timezone")
    }
    assert shown == {
        "statement_timeout": "1min",
        "default_transaction_read_only": "on",
        "timezone": "UTC",
    }
    assert await auditor.fetch("SELECT * FROM spend") == []


async def test_no_secret_that_was_planted_can_be_read_through_any_view(
    owner: asyncpg.Connection, auditor: asyncpg.Connection, configuration: Configuration
) -> None:
    peppers, sealing = Peppers({1: b"p" * 32}), Sealing({1: b"m" * 32})
    sealed = sealing.seal(b"a-secret-of-a-webhook", "webhook x"), sealing.seal(b"a-secret-of-an-issuer", "y")
    async with configuration.change(ROOT, "plants secrets") as change:
        person = await create_principal(change, "user", {"name": "planted"})
        key, text = await create_key(change, peppers, NewKey(person["id"], name="planted key"))
        await change.add(
            webhooks, "webhook", {"name": "w", "url": "https://h.example/x", "secret_sealed": sealed[0]}
        )
        await change.add(
            issuers,
            "issuer",
            {
                "name": "i", "issuer": "https://i.example", "audience": "a", "family": "HS", "secret_sealed": sealed[1],
            },
        )  # fmt: skip
    seen = ""
    for row in await relations(owner):
        if row["schema"] in OPEN:
            found = await auditor.fetch(f"SELECT t::text FROM {row['schema']}.{row['name']} t")
            seen += "\n".join(each[0] for each in found)
    assert "planted key" in seen
    for secret in (key["digest"], *sealed):
        assert secret.hex() not in seen
    for secret in (text, text.split("_")[-1], "a-secret-of-a-webhook", "a-secret-of-an-issuer"):
        assert secret not in seen


async def test_three_part_names_of_databricks_system_tables_work(
    postgres_server: EmbeddedPostgres,
) -> None:
    await upgrade(postgres_server.url("weighbridge_owner"))
    connection = await asyncpg.connect(postgres_server.url("weighbridge_auditor"))
    for name in (
        "system.serving.endpoint_usage", "system.serving.served_entities", "system.access.audit",
        "system.billing.usage", "system.billing.list_prices",
    ):  # fmt: skip
        await connection.fetch(f"SELECT account_id FROM {name} LIMIT 1")
    joined = await connection.fetch("""
        SELECT se.endpoint_name, eu.requester, sum(eu.input_token_count + eu.output_token_count)
        FROM system.serving.endpoint_usage eu JOIN system.serving.served_entities se
          ON eu.served_entity_id = se.served_entity_id AND eu.workspace_id = se.workspace_id
        WHERE eu.request_time > current_timestamp - INTERVAL '30' DAY AND se.endpoint_delete_time IS NULL GROUP BY 1, 2
    """)
    assert joined == []
    await connection.close()
