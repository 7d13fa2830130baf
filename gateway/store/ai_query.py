"""Install ai_query() into a database, and make the logins that such databases call with.

Passwords are random and exist in two places: as a verifier at the gateway's role, and in the user mapping of a role that
nobody logs in as. The statements that set them hold no password that the server could log in the clear but one: the
mapping's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from importlib.resources import files

import asyncpg

CALLER = "weighbridge_caller"
_NAME_BYTES = 63


def script() -> str:
    """The script, as it is."""
    return files("gateway.sql").joinpath("ai_query.sql").read_text(encoding="utf-8")


def addressed(*, host: str, port: str, database: str, login: str, password: str) -> str:
    """The script with its address before it, as one transaction."""
    given = {"host": host, "port": port, "dbname": database, "login": login, "password": password}
    settings = "".join(
        f"SET LOCAL weighbridge.{name} = {_literal(value)};\n" for name, value in given.items()
    )
    return f"BEGIN;\n{settings}\n{script()}\nCOMMIT;\n"


async def install(connection: asyncpg.Connection, *, host: str, port: str) -> None:
    """Install or renew it in the gateway's own database, as a superuser; the login gets a new password."""
    password = secrets.token_urlsafe(32)
    async with connection.transaction():
        await _set_password(connection, CALLER, password)
        given = {
            "host": host,
            "port": port,
            "dbname": await connection.fetchval("SELECT current_database()"),
            "login": CALLER,
            "password": password,
        }
        for name, value in given.items():
            await connection.execute("SELECT set_config($1, $2, true)", f"weighbridge.{name}", value)
        await connection.execute(script())


async def make_login(connection: asyncpg.Connection, name: str) -> str:
    """Make a login for another database, or renew its password, which is the answer."""
    if not 0 < len(name.encode()) <= _NAME_BYTES or "\0" in name:
        raise ValueError(f"{name!r} is no name for a role")
    quoted = '"' + name.replace('"', '""') + '"'
    password = secrets.token_urlsafe(32)
    async with connection.transaction():
        member = await connection.fetchval(
            "SELECT pg_has_role(rolname, $2, 'MEMBER') FROM pg_roles WHERE rolname = $1", name, CALLER
        )
        if member is None:
            await connection.execute(f"CREATE ROLE {quoted} LOGIN CONNECTION LIMIT 50 IN ROLE {CALLER}")
            await connection.execute(
                f"ALTER ROLE {quoted} SET default_transaction_isolation = 'read committed'"
            )
            database = await connection.fetchval("SELECT quote_ident(current_database())")
            await connection.execute(f"GRANT CONNECT ON DATABASE {database} TO {quoted}")
        elif not member:
            raise ValueError(
                f"the role {name!r} exists and is not one of those that call models; choose another name"
            )
        await _set_password(connection, name, password)
    return password


async def _set_password(connection: asyncpg.Connection, role: str, password: str) -> None:
    quoted = '"' + role.replace('"', '""') + '"'
    await connection.execute(f"ALTER ROLE {quoted} PASSWORD {_literal(verifier(password))}")


def verifier(password: str) -> str:
    """A SCRAM-SHA-256 verifier of one round: the rounds slow the guessing of what people choose, and every connection."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1)
    client = hmac.digest(salted, b"Client Key", "sha256")
    stored = hashlib.sha256(client).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt_text, stored_text, server_text = (base64.b64encode(each).decode() for each in (salt, stored, server))
    return f"SCRAM-SHA-256$1:{salt_text}${stored_text}:{server_text}"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
