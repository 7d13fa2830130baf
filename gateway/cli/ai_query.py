"""`weighbridge ai-query`: whom SQL roles stand for, and how another database comes to call models.

Roles are mapped through the running gateway, which audits it; logins are made in the gateway's database, by its owner.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg

from gateway.cli.keys import principal_named
from gateway.cli.reach import AdminApi, CannotReach, database_url, owner_url
from gateway.settings import Settings
from gateway.store.ai_query import CALLER, addressed, make_login

_SUPERUSER = "postgres"


def mapped(api: AdminApi, role: str, principal: str, login: str) -> str:
    """Let a role stand for a principal; a sentence."""
    found = principal_named(api, principal)
    api.put("/sql-roles", {"sql_role": role, "principal_id": found["id"], "login": login})
    return f"The role {role!r} of {_database(login)} calls models as {principal!r}."


def unmapped(api: AdminApi, role: str, login: str) -> str:
    """A role stands for nobody any more; a sentence."""
    for each in api.pages("/sql-roles"):
        if (each["sql_role"], each["login"]) == (role, login):
            api.delete(f"/sql-roles/{each['id']}")
            return f"The role {role!r} of {_database(login)} calls no models any more."
    raise CannotReach(
        f"The role {role!r} of {_database(login)} is not mapped; see `weighbridge ai-query list`."
    )


def listed(api: AdminApi) -> list[str]:
    """A line for each role that is mapped."""
    names = {
        each["id"]: each["name"] for kind in ("users", "service-principals") for each in api.pages(f"/{kind}")
    }
    return [
        f"{each['login']:<24}{each['sql_role']:<24}{names.get(each['principal_id'], each['principal_id'])}"
        for each in api.pages("/sql-roles")
    ]


async def login_made(settings: Settings, name: str) -> str:
    """The new password of a login for another database."""
    embedded = settings.migrate_database_url is None
    url = database_url(settings, _SUPERUSER) if embedded else owner_url(settings)
    connection = await asyncpg.connect(url, timeout=5)
    try:
        return await make_login(connection, name)
    except ValueError as exc:
        raise CannotReach(str(exc)) from exc
    finally:
        await connection.close()


def script_for(
    settings: Settings, *, host: str | None, port: int | None, database: str | None, login: str, password: str
) -> str:
    """The script that installs ai_query() into another database, told where the gateway's is."""
    parts: Any = urlsplit(settings.database_url or "")
    query = parse_qs(parts.query)
    found_host = host or parts.hostname or query.get("host", [""])[0]
    found_port = port or parts.port or (settings.pg_port if settings.database_url is None else None) or 5432
    found_database = database or unquote(parts.path.lstrip("/")) or "system"
    return addressed(
        host=found_host or "127.0.0.1",
        port=str(found_port),
        database=found_database,
        login=login,
        password=password,
    )


def _database(login: str) -> str:
    return "the gateway's database" if login == CALLER else f"the database that logs in as {login!r}"
