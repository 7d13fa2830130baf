"""Read the current versions of governed objects, and tell a server that is away from a statement that is wrong.

What PostgreSQL says never reaches a caller: its errors become Unavailable or Conflict here, or stay our own fault.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import asyncpg
from sqlalchemy import Table, select
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.errors import BadRequest, Conflict, NotFound, Unavailable
from gateway.store.database import AWAY, UNREACHABLE

Row = Mapping[str, Any]


@contextmanager
def translated() -> Generator[None]:
    """Turns the database's own errors into those that a caller may see."""
    try:
        yield
    except IntegrityError as error:
        raise Conflict(_wording(error)) from error
    except DBAPIError as error:
        cause = error.orig.__cause__ if error.orig is not None else None
        if isinstance(cause, asyncpg.DataError):
            raise BadRequest("A value is outside of what can be stored; give a plainer one.") from error
        # Without a statement it failed on the way to the server, whatever it says.
        if (
            error.statement is None
            or error.connection_invalidated
            or isinstance(cause, AWAY)
            or isinstance(error.orig, AWAY)
        ):
            raise Unavailable(UNREACHABLE) from error
        raise
    except (*AWAY, PoolTimeout, TimeoutError) as error:
        raise Unavailable(UNREACHABLE) from error


async def current(connection: AsyncConnection, table: Table, object_id: str, kind: str) -> Row:
    """The object's current version; raises NotFound."""
    found = await rows(connection, table, table.c.id == object_id)
    if not found:
        raise NotFound(f"There is no {kind.replace('_', ' ')} with id {object_id!r}.")
    return found[0]


async def rows(connection: AsyncConnection, table: Table, *conditions: Any) -> list[Row]:
    """Current versions that meet the conditions, in order of id."""
    found = await connection.execute(
        select(table).where(table.c.to_change.is_(None), *conditions).order_by(table.c.id)
    )
    return [dict(each._mapping) for each in found]


async def page(
    connection: AsyncConnection, table: Table, *conditions: Any, after: str | None, size: int
) -> tuple[list[Row], str | None]:
    """One page of current versions in order of id, and the id to go on after; None on the last page."""
    where = [table.c.to_change.is_(None), *conditions]
    if after is not None:
        where.append(table.c.id > after)
    found = await connection.execute(select(table).where(*where).order_by(table.c.id).limit(size + 1))
    listed: list[Row] = [dict(each._mapping) for each in found]
    return listed[:size], (str(listed[size - 1]["id"]) if len(listed) > size else None)


def _wording(error: IntegrityError) -> str:
    cause = error.orig.__cause__ if error.orig is not None else None
    name = str(getattr(cause, "constraint_name", None) or "")
    if name.startswith("uq_"):
        what = name.removeprefix("uq_").replace("_", " ")
        return f"There is one like it already ({what}); change that one, or choose another name."
    what = name.removeprefix("ck_").replace("_", " ") or "a rule of the database"
    return f"The values do not fit together ({what})."
