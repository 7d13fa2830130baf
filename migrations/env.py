"""Runs revisions on the connection that gateway.store.migrate gives, or, for the `alembic` command, on one from
the environment. Everything happens in one transaction: an upgrade is applied whole or not at all.
"""

from __future__ import annotations

import asyncio

from alembic import context
from sqlalchemy import Connection

from gateway.settings import Settings
from gateway.store.migrate import VERSION_TABLE, owner_connection
from gateway.store.tables import everything
from gateway.store.tables.base import SCHEMA
from gateway.store.tables.ledger import is_partition


def _included(item: object, name: str | None, kind: str, reflected: bool, compared_to: object) -> bool:
    """Partitions come and go at run time; they are no part of the schema that revisions describe."""
    return not (kind == "table" and reflected and name is not None and is_partition(name))


def _schema(name: str | None, kind: str, parents: object) -> bool:
    return kind != "schema" or name == SCHEMA


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=everything.metadata,
        include_schemas=True,
        include_name=_schema,
        include_object=_included,
        version_table=VERSION_TABLE,
        version_table_schema=SCHEMA,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def _from_environment() -> None:
    settings = Settings.from_env()
    url = settings.migrate_database_url or settings.database_url
    if url is None:
        raise SystemExit(
            "Set WEIGHBRIDGE_MIGRATE_DATABASE_URL to the owner's address; embedded stores are migrated by `weighbridge up`."
        )
    async with owner_connection(url, application_url=settings.database_url) as connection:
        await connection.run_sync(_run)


given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    _run(given)
else:
    asyncio.run(_from_environment())
