"""Change whom the roles of databases stand for when they call models from SQL."""

from __future__ import annotations

from gateway.errors import BadRequest
from gateway.store.changes import Change
from gateway.store.reading import Row
from gateway.store.tables.identity import principals
from gateway.store.tables.sql_calls import sql_roles


async def map_role(change: Change, login: str, sql_role: str, principal_id: str) -> Row:
    """Let a role stand for a principal from now on."""
    if not await change.rows(principals, principals.c.id == principal_id):
        raise BadRequest(f"There is no principal with id {principal_id!r}.", param="principal_id")
    found = await change.rows(sql_roles, sql_roles.c.login == login, sql_roles.c.sql_role == sql_role)
    if found:
        return await change.revise(sql_roles, "sql_role", found[0], principal_id=principal_id)
    return await change.add(
        sql_roles, "sql_role", {"login": login, "sql_role": sql_role, "principal_id": principal_id}
    )
