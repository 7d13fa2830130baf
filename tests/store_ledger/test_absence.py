"""PostgreSQL goes away in the middle of a drain, and the drainer's process ends when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from gateway.drain import read_state
from gateway.embedded.postgres import EmbeddedPostgres
from gateway.settings import Settings
from gateway.spool.books import Away
from gateway.spool.drainer import Drainer
from gateway.spool.writer import SpoolWriter
from gateway.store.ledger import PostgresBooks
from gateway.store.migrate import upgrade
from tests.spool.making import intent, progress, settlement
from tests.store_ledger.books_check import assert_sums_are_right, quarantined


@pytest.fixture
async def own_server(stores_home: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A server that this test may stop; durable, for that is what is tried."""
    home = stores_home / "absence"
    home.mkdir(mode=0o711, exist_ok=True)
    server = EmbeddedPostgres(home)
    await server.start()
    await upgrade(await server.create_database("absence"))
    yield server
    await server.stop()


class Confused:
    """A connection whose server was killed in the middle of a statement: its client does not know where it stands."""

    terminated = False

    def is_closed(self) -> bool:
        return False

    async def execute(self, *_: object) -> None:
        raise asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")

    fetch = execute

    def terminate(self) -> None:
        self.terminated = True


async def test_a_connection_that_lost_its_place_is_given_up_and_the_ledger_is_away() -> None:
    books = PostgresBooks("postgresql:///nowhere", host="here")
    for call in (lambda: books.post([], []), lambda: books.known([])):
        books._connection = confused = Confused()  # type: ignore[assignment]
        with pytest.raises(Away, match="InternalClientError"):
            await call()
        assert confused.terminated


async def test_a_server_that_is_killed_and_comes_back_has_every_request_once(
    tmp_path: Path, own_server: EmbeddedPostgres
) -> None:
    spool = SpoolWriter(tmp_path)
    drainer = Drainer(tmp_path, PostgresBooks(own_server.url(database="absence"), host="here"))
    running = asyncio.create_task(drainer.run())
    appended = 0

    async def work() -> None:
        nonlocal appended
        while True:
            # What is behind is posted in the end: some thousands are a drain to be killed in, all that fit are a wait.
            for _ in range(20 if appended < drainer.state.posted + 3000 else 0):
                begun = intent()
                spool.append(begun)
                spool.append(settlement(begun))
                appended += 1
            await asyncio.sleep(0.005)

    working = asyncio.create_task(work())
    try:
        for number in (signal.SIGQUIT, signal.SIGKILL):
            enough = drainer.state.posted + 500
            async with asyncio.timeout(60):
                while drainer.state.posted < enough:
                    await asyncio.sleep(0.02)
            own_server.child.send(number)
            async with asyncio.timeout(60):
                while drainer.state.away_since_ms is None:
                    await asyncio.sleep(0.02)
            await own_server.stop()
            await own_server.start()
            async with asyncio.timeout(60):
                while drainer.state.away_since_ms is not None:
                    await asyncio.sleep(0.02)
    finally:
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working
    spool.append(orphan := intent())
    spool.append(progress(orphan))
    spool.close()
    async with asyncio.timeout(60):
        while drainer.state.posted < appended + 1:
            await asyncio.sleep(0.05)
    drainer.stop()
    await running
    database = await asyncpg.connect(own_server.url(database="absence"))
    assert await database.fetchval("SELECT count(*) FROM gateway.requests") == appended + 1
    assert await database.fetchval("SELECT count(*) FROM gateway.requests WHERE status = 'interrupted'") == 1
    await assert_sums_are_right(database)
    await database.close()
    assert quarantined(tmp_path) == []


async def test_the_process_drains_what_is_left_and_ends_on_sigterm(
    tmp_path: Path, database_url: str, database: asyncpg.Connection
) -> None:
    settings = Settings.from_env(
        {"WEIGHBRIDGE_HOME": str(tmp_path), "WEIGHBRIDGE_DATABASE_URL": database_url}
    )
    script = "import asyncio; from gateway.drain import run; from gateway.settings import Settings; asyncio.run(run(Settings.from_env()))"
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", script, env=settings.to_env())
    spool = SpoolWriter(settings.spool_dir)
    begun = intent(principal_id="u_process")
    spool.append(begun)
    try:
        async with asyncio.timeout(60):
            while (state := read_state(settings.spool_dir)) is None or state.spools == 0:
                await asyncio.sleep(0.05)
        spool.append(settlement(begun))
        spool.close()
        child.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            assert await child.wait() == 0
    finally:
        if child.returncode is None:
            child.kill()
    told = "SELECT status FROM gateway.requests WHERE principal_id = 'u_process'"
    assert await database.fetchval(told) == "ok"
