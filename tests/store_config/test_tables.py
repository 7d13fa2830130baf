"""What the database itself forbids, whoever asks: the application adds and closes versions, nothing else."""

from __future__ import annotations

import asyncpg
import pytest

from gateway.store.changes import Actor, Configuration
from gateway.store.principals import create_group
from gateway.store.tables.everything import metadata
from gateway.store.tables.identity import groups
from gateway.store.tables.versioned import configuration_change

VERSIONED = sorted(table.name for table in metadata.tables.values() if "from_change" in table.c)


@pytest.mark.parametrize("table", VERSIONED)
async def test_the_application_edits_and_deletes_no_version(database_url: str, table: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        for statement in (
            f"DELETE FROM gateway.{table}",
            f"UPDATE gateway.{table} SET managed_by = 'me'",
            f"UPDATE gateway.{table} SET valid_from = now()",
            f"TRUNCATE gateway.{table}",
            f"ALTER TABLE gateway.{table} ADD COLUMN hole int",
            f"DROP TABLE gateway.{table}",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()


async def test_a_closed_version_stays_closed_even_for_the_owner(
    configuration: Configuration, root: Actor, owner_url: str
) -> None:
    async with configuration.change(root) as change:
        group = await create_group(change, "closing", "")
    async with configuration.change(root) as change:
        await change.remove(groups, "group", group)
    connection = await asyncpg.connect(owner_url)
    try:
        for opened in ("to_change = NULL, valid_to = NULL", "to_change = to_change + 1"):
            with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="closed once"):
                await connection.execute(f"UPDATE gateway.groups SET {opened} WHERE id = $1", group["id"])
    finally:
        await connection.close()


async def test_every_governed_table_and_column_says_what_it_holds(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        silent = await connection.fetch(
            "SELECT c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
            " WHERE c.relnamespace = 'gateway'::regnamespace AND c.relkind = 'r' AND c.relname = ANY($1)"
            " AND a.attnum > 0 AND NOT a.attisdropped AND col_description(c.oid, a.attnum) IS NULL",
            [*VERSIONED, configuration_change.name, "api_key_uses"],
        )
    finally:
        await connection.close()
    assert [tuple(each) for each in silent] == []
