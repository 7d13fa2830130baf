"""One way to read an address, limits on every statement, and nothing that a transaction pooler would break."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from gateway.store.database import engine, plain


def test_an_address_may_name_sqlalchemys_driver() -> None:
    assert (
        plain("postgresql+asyncpg://u@/d?host=/run")
        == plain("postgresql://u@/d?host=/run")
        == "postgresql://u@/d?host=/run"
    )


async def test_a_statement_is_ended_when_its_time_is_over(database_url: str) -> None:
    made = engine(database_url, statement_seconds=0.2)
    async with made.connect() as connection:
        with pytest.raises(DBAPIError, match="statement timeout"):
            await connection.execute(text("SELECT pg_sleep(5)"))
    async with made.connect() as connection:
        assert (
            await connection.execute(text("SELECT current_setting('statement_timeout')"))
        ).scalar() == "200ms"
    await made.dispose()


async def test_no_session_state_is_left_behind(database_url: str) -> None:
    made = engine(database_url, size=1)
    for _ in range(3):
        async with made.begin() as connection:
            await connection.execute(text("SELECT CAST(:a AS int), :b"), {"a": 1, "b": "x"})
            assert (
                await connection.execute(text("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''"))
            ).scalar() == 0
    async with made.connect() as connection:
        raw = (await connection.get_raw_connection()).driver_connection
        assert raw is not None
        assert await raw.fetchval("SHOW statement_timeout") in ("0", "10s")
    await made.dispose()


async def test_the_pool_never_holds_more_than_its_size(database_url: str) -> None:
    made = engine(database_url, size=2)

    async def ask() -> int:
        async with made.connect() as connection:
            return (await connection.execute(text("SELECT pg_backend_pid()"))).scalar() or 0

    assert len(set(await asyncio.gather(*(ask() for _ in range(20))))) <= 2
    await made.dispose()
