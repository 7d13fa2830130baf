"""Bring the database's schema to the one this code expects, and refuse to start on any other.

An upgrade runs in one transaction under an advisory lock: two that start at once come one after the other, and one
that fails leaves nothing behind. It needs the schema's owner and, where a transaction pooler stands in front, may
go through it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.store.database import connect, engine
from gateway.store.tables.base import SCHEMA

APPLICATION_ROLE = "weighbridge_app"
AUDITOR_ROLE = "weighbridge_auditor"
PAYLOADS_ROLE = "weighbridge_payloads"
"""May read what was asked and answered, and nothing else."""
VERSION_TABLE = "alembic_version"
_LOCK = 0x5742_0001
_MIGRATION_SECONDS = 3600.0
# What each session of those who read begins with: nobody reads for longer, nor in another time zone than the books'.
_READING = (
    "statement_timeout = '60s'",
    "idle_in_transaction_session_timeout = '60s'",
    "default_transaction_read_only = on",
    "timezone = 'UTC'",
)
_READERS = (
    (AUDITOR_ROLE, "search_path = billing, serving, access, pg_catalog"),
    (PAYLOADS_ROLE, "search_path = payloads, pg_catalog"),
)


class SchemaError(RuntimeError):
    """The database's schema cannot be used as it is; the text says what to run."""


async def upgrade(url: str, application_url: str | None = None) -> None:
    """Apply what is missing, as the owner at `url`; a role named in `application_url` gets the application's rights."""
    async with owner_connection(url, application_url=application_url) as connection:
        await connection.run_sync(_upgrade, "head")
        # The first requests must not find the default partition only.
        await connection.execute(text("SELECT gateway.make_partitions()"))


async def downgrade(url: str, revision: str) -> None:
    """Undo revisions down to `revision`; what they held is lost."""
    async with owner_connection(url) as connection:
        await connection.run_sync(_downgrade, revision)


async def current(url: str) -> str | None:
    """The schema's revision; None where there is no schema yet."""
    connection = await connect(url, application_name="weighbridge-schema")
    try:
        return await connection.fetchval("SELECT version_num FROM gateway.alembic_version")
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        return None
    except asyncpg.InsufficientPrivilegeError as exc:
        raise SchemaError(
            f"The role in WEIGHBRIDGE_DATABASE_URL may not use the schema {SCHEMA}; as the owner run `weighbridge migrate`,"
            f" or GRANT {APPLICATION_ROLE} to that role."
        ) from exc
    finally:
        await connection.close()


def head() -> str:
    """The revision that this code expects."""
    found = ScriptDirectory.from_config(_config()).get_current_head()
    if found is None:
        raise SchemaError("This installation lacks its migrations; install it again.")
    return found


async def require_current(url: str) -> None:
    """Return if the schema is the one this code expects; raises SchemaError, which says what to do, otherwise."""
    found, wanted = await current(url), head()
    if found == wanted:
        return
    if found is None:
        raise SchemaError(
            "The database has no Weighbridge schema yet; run `weighbridge migrate` as its owner."
        )
    if _is_known(found):
        raise SchemaError(
            f"The database's schema is at {found}, this version needs {wanted}; run `weighbridge migrate` as its owner."
        )
    raise SchemaError(
        f"The database's schema is at {found}, made by a newer version; install that or a later one."
    )


@asynccontextmanager
async def owner_connection(
    url: str, *, application_url: str | None = None
) -> AsyncGenerator[AsyncConnection]:
    """A transaction as the owner that holds the migration lock and in which schema and role exist."""
    made = engine(url, application_name="weighbridge-migrate", size=0, statement_seconds=_MIGRATION_SECONDS)
    try:
        async with made.begin() as connection:
            await connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
            # Waiting for a lock makes everyone else wait behind us: give up soon, and be run again.
            await connection.execute(text("SET LOCAL lock_timeout = '15s'"))
            if (
                await connection.execute(text("SELECT to_regnamespace(:name)"), {"name": SCHEMA})
            ).scalar() is None:
                await connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))
            await _ensure_role(connection, application_url)
            yield connection
    finally:
        await made.dispose()


async def _ensure_role(connection: AsyncConnection, application_url: str | None) -> None:
    exists = text("SELECT 1 FROM pg_roles WHERE rolname = :name")
    for reader, path in _READERS:
        if (await connection.execute(exists, {"name": reader})).scalar() is None:
            # No password: where that is what opens the door, whoever runs the server sets one.
            await _as_owner(
                connection,
                f"CREATE ROLE {reader} LOGIN CONNECTION LIMIT 10",
                f"a role with CREATEROLE must run: CREATE ROLE {reader} LOGIN CONNECTION LIMIT 10",
                *(f"ALTER ROLE {reader} SET {each}" for each in (*_READING, path)),
            )
    if (await connection.execute(exists, {"name": APPLICATION_ROLE})).scalar() is None:
        await _as_owner(
            connection,
            f"CREATE ROLE {APPLICATION_ROLE} NOLOGIN",
            f"a role with CREATEROLE must run: CREATE ROLE {APPLICATION_ROLE} NOLOGIN",
        )
    login = _user(application_url)
    if (
        login in (None, APPLICATION_ROLE)
        or login == (await connection.execute(text("SELECT current_user"))).scalar()
    ):
        return
    member = text("SELECT pg_has_role(rolname, :role, 'USAGE') FROM pg_roles WHERE rolname = :name")
    held = (await connection.execute(member, {"name": login, "role": APPLICATION_ROLE})).scalar()
    if held is None:
        raise SchemaError(
            f"WEIGHBRIDGE_DATABASE_URL names the role {login!r}, which does not exist; create it first."
        )
    if not held:
        quoted = '"' + str(login).replace('"', '""') + '"'
        await _as_owner(
            connection,
            f"GRANT {APPLICATION_ROLE} TO {quoted}",
            f"a role that administers {APPLICATION_ROLE} must run: GRANT {APPLICATION_ROLE} TO {quoted}",
        )


async def _as_owner(connection: AsyncConnection, statement: str, remedy: str, *then: str) -> None:
    try:
        async with connection.begin_nested():
            for each in (statement, *then):
                await connection.exec_driver_sql(each)
    except DBAPIError as exc:
        state = getattr(exc.orig, "sqlstate", None)
        if state in ("42710", "23505"):
            # Made meanwhile for another database of the same server.
            return
        if state == "42501":
            raise SchemaError(f"The owner's role may not set up the application's role; {remedy}") from exc
        raise


def _config(connection: Connection | None = None) -> Config:
    found = importlib.util.find_spec("migrations")
    if found is None or found.origin is None:
        raise SchemaError("This installation lacks its migrations; install it again.")
    config = Config()
    config.set_main_option("script_location", str(Path(found.origin).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    if connection is not None:
        config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection, revision: str) -> None:
    command.upgrade(_config(connection), revision)


def _downgrade(connection: Connection, revision: str) -> None:
    command.downgrade(_config(connection), revision)


def _is_known(revision: str) -> bool:
    return any(each.revision == revision for each in ScriptDirectory.from_config(_config()).walk_revisions())


def _user(url: str | None) -> str | None:
    if url is None:
        return None
    name = urlsplit(url).username
    return None if name is None else unquote(name)
