"""The embedded PostgreSQL: who may enter, what survives, and what a second server on the same data is told."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from gateway.embedded.errors import EmbeddedError
from gateway.embedded.places import socket_folder
from gateway.embedded.postgres import EmbeddedPostgres
from gateway.embedded.process import alive, wait_until_gone


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="wb-pg-"))
    folder.chmod(0o711)
    yield folder
    for note in folder.glob("**/run/socket-folder"):
        shutil.rmtree(note.read_text().strip(), ignore_errors=True)
    shutil.rmtree(folder)


async def test_the_application_role_owns_nothing_and_cannot_make_tables(
    postgres_server: EmbeddedPostgres,
) -> None:
    connection = await asyncpg.connect(postgres_server.url())
    try:
        assert await connection.fetchval("SELECT current_database()") == "system"
        assert await connection.fetchval("SELECT count(*) FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba "
                                         "WHERE r.rolname = current_user") == 0  # fmt: skip
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("CREATE TABLE mine (id int)")
    finally:
        await connection.close()


async def test_a_database_name_with_quotes_is_only_a_name(postgres_server: EmbeddedPostgres) -> None:
    name = 'odd "name"; --'
    url = await postgres_server.create_database(name)
    connection = await asyncpg.connect(url)
    try:
        assert await connection.fetchval("SELECT current_database()") == name
    finally:
        await connection.close()
        await postgres_server.drop_database(name)


async def test_data_survives_a_stop_and_the_path_may_hold_spaces(home: Path) -> None:
    place = home / "a path with spaces"
    async with EmbeddedPostgres(place, durable=False) as server:
        connection = await asyncpg.connect(server.url("weighbridge_owner"))
        await connection.execute("CREATE TABLE kept (id int); INSERT INTO kept VALUES (7)")
        await connection.close()
        assert stat.S_IMODE((place / "postgres").stat().st_mode) == 0o700
    async with EmbeddedPostgres(place, durable=False) as server:
        connection = await asyncpg.connect(server.url("weighbridge_owner"))
        assert await connection.fetchval("SELECT id FROM kept") == 7
        await connection.close()


async def test_a_second_server_on_the_same_home_is_refused_in_one_sentence(home: Path) -> None:
    async with EmbeddedPostgres(home, durable=False):
        with pytest.raises(EmbeddedError, match="already run by another process"):
            await EmbeddedPostgres(home, durable=False).start()


async def test_a_half_made_data_folder_is_made_again(home: Path) -> None:
    (home / "postgres").mkdir()
    (home / "postgres" / "base").mkdir()
    (home / "postgres.new").mkdir()
    (home / "postgres.new" / "PG_VERSION").write_text("18\n")
    async with EmbeddedPostgres(home, durable=False) as server:
        connection = await asyncpg.connect(server.url())
        await connection.close()
    assert not (home / "postgres.new").exists()


_LIFE = """
import asyncio, sys
from pathlib import Path
from gateway.embedded.postgres import EmbeddedPostgres
from gateway.embedded.redis import EmbeddedRedis

async def live(home):
    postgres, redis = EmbeddedPostgres(home), EmbeddedRedis(home)
    await postgres.start()
    await redis.start()
    print(postgres.child.pid, redis.child.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(live(Path(sys.argv[1])))
"""


async def test_the_servers_end_with_a_killed_parent_and_a_later_start_finds_the_data(home: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", _LIFE, home], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    postgres, redis = (int(part) for part in (await asyncio.to_thread(parent.stdout.readline)).split())
    assert alive(postgres)
    assert alive(redis)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    # No pause: the next start has to cope with a server that is still ending.
    async with EmbeddedPostgres(home, durable=False) as server:
        connection = await asyncpg.connect(server.url())
        await connection.close()
        assert await wait_until_gone(postgres, 5)
        assert await wait_until_gone(redis, 5)


async def test_loopback_needs_the_password_and_never_lets_the_superuser_in(home: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    async with EmbeddedPostgres(home, tcp_port=port, durable=False) as server:
        assert stat.S_IMODE(server.password_file.stat().st_mode) == 0o600
        password = server.password_file.read_text().strip()
        connection = await asyncpg.connect(
            user="weighbridge_owner", password=password, host="127.0.0.1", port=port, database="system"
        )
        await connection.close()
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(
                user="weighbridge_owner", password="guess", host="127.0.0.1", port=port, database="system"
            )
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
            await asyncpg.connect(
                user="postgres", password=password, host="127.0.0.1", port=port, database="system"
            )


async def test_a_loopback_port_in_use_is_named(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port: int = taken.getsockname()[1]
        with pytest.raises(EmbeddedError, match=f"port {port} of 127.0.0.1 is in use"):
            await EmbeddedPostgres(home, tcp_port=port, durable=False).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives servers another user")
async def test_as_root_a_home_that_the_server_cannot_enter_is_replaced_by_a_link(home: Path) -> None:
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    async with EmbeddedPostgres(closed / "var", durable=False) as server:
        connection = await asyncpg.connect(server.url())
        await connection.close()
        link = closed / "var" / "postgres"
        assert link.is_symlink()
        target = link.resolve()
        assert stat.S_IMODE(target.stat().st_mode) == 0o700
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    shutil.rmtree(target.parent)


def test_a_socket_folder_too_long_for_a_socket_is_replaced_and_remembered(home: Path) -> None:
    run = home / ("long" * 30) / "run"
    folder = socket_folder(run, "pg", None, longest_name=20)
    assert len(os.fsencode(folder)) + 21 <= 107
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert socket_folder(run, "pg", None, longest_name=20) == folder
