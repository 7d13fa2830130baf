"""A real PostgreSQL of our own: set up, started, reached over a private socket, stopped.

Set-up is all or nothing (a half-made data folder keeps another name), and the server ends with the process
that started it: a later start finds a clean or a recoverable data folder, never a second server on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlencode

import asyncpg

from gateway.embedded.account import POSTGRES_ID, Account, service_account
from gateway.embedded.cluster import SUPERUSER, configure, initialise, server_environment
from gateway.embedded.errors import EmbeddedError
from gateway.embedded.lock import HomeLock
from gateway.embedded.places import private_folder, socket_folder
from gateway.embedded.process import Child, spawn, wait_until_gone
from gateway.embedded.programs import postgres_programs
from gateway.store import ai_query
from gateway.store.ai_query import CALLER

OWNER = "weighbridge_owner"
APPLICATION = "weighbridge_app"
DEMO = "demo"
DATABASE = "system"

_DEFAULT_PORT = 5432
_LONGEST_SOCKET_NAME = len(".s.PGSQL.65535.lock")
_NAME_BYTES = 63


class EmbeddedPostgres:
    """One server under `home`; built cheaply, started by `start` or `async with`.

    For example:
        async with EmbeddedPostgres(home) as server:
            connection = await asyncpg.connect(server.url())
    """

    def __init__(self, home: Path, *, tcp_port: int | None = None, durable: bool = True) -> None:
        """`tcp_port` also opens loopback with a password; `durable=False` is for tests only."""
        self._home = home.absolute()
        self._tcp_port = tcp_port
        self._durable = durable
        self._account: Account | None = service_account(POSTGRES_ID)
        self._child: Child | None = None
        self._lock = HomeLock(self._home / "postgres.lock")
        self._sockets: Path | None = None

    @property
    def log(self) -> Path:
        """What the server says about itself; no statement and no value is in it."""
        return self._home / "logs" / "postgres.log"

    @property
    def password_file(self) -> Path:
        """The password of loopback connections; exists when `tcp_port` was given."""
        return self._home / "postgres.password"

    @property
    def child(self) -> Child:
        """The running server's process."""
        if self._child is None:
            raise EmbeddedError("The embedded PostgreSQL has not been started.")
        return self._child

    def url(self, role: str = APPLICATION, database: str = DATABASE) -> str:
        """A libpq-style address over the private socket, without a password."""
        if self._sockets is None:
            raise EmbeddedError("The embedded PostgreSQL has not been started.")
        query = {"host": str(self._sockets)}
        if self._port != _DEFAULT_PORT:
            query["port"] = str(self._port)
        return f"postgresql://{quote(role)}@/{quote(database)}?{urlencode(query, safe='/')}"

    async def start(self, *, seconds: float = 60.0) -> None:
        """Set up what is missing, start the server and make its roles and database."""
        if self._child is not None and self._child.running:
            return
        self._home.mkdir(parents=True, exist_ok=True)
        if not self._lock.take():
            raise EmbeddedError(f"The PostgreSQL under {self._home} is already run by another process.")
        try:
            programs = await asyncio.to_thread(postgres_programs, self._account)
            data = self._home / "postgres"
            if not (data / "PG_VERSION").exists():
                await asyncio.to_thread(initialise, programs, data, self._account, durable=self._durable)
            data = private_folder(data, self._account)
            await self._end_stray_server(data)
            configure(data, self._account, durable=self._durable, over_loopback=self._tcp_port is not None)
            self._sockets = socket_folder(
                self._home / "run", "pg", self._account, longest_name=_LONGEST_SOCKET_NAME
            )
            self._child = self._spawn(programs, data, self._sockets)
            await self._until_ready(data, self._child, seconds)
            await self._provision()
        except BaseException:
            await self.stop()
            raise

    async def stop(self, *, seconds: float = 30.0) -> None:
        """End sessions, write a checkpoint, stop; killed after `seconds`, which recovery forgives."""
        if self._child is not None:
            await self._child.stop(signal.SIGINT, seconds)
            self._child = None
        self._lock.release()

    async def create_database(
        self, name: str, *, template: str = "template0", as_template: bool = False
    ) -> str:
        """Make a database that the owner's role owns and only our roles may enter; answers its owner's URL."""
        identifier = _identifier(name)
        connection = await self._superuser()
        try:
            await connection.execute(
                f"CREATE DATABASE {identifier} OWNER {OWNER} TEMPLATE {_identifier(template)}"
                + (" IS_TEMPLATE true" if as_template else "")
            )
            await connection.execute(f"REVOKE ALL ON DATABASE {identifier} FROM PUBLIC")
            # A copy of a template does not take over who may enter.
            ours = await connection.fetch(
                "SELECT quote_ident(rolname) FROM pg_roles WHERE rolname ^@ 'weighbridge_'"
            )
            await connection.execute(
                f"GRANT CONNECT ON DATABASE {identifier} TO {', '.join(row[0] for row in ours)}"
            )
        finally:
            await connection.close()
        return self.url(OWNER, name)

    async def install_ai_query(self, database: str = DATABASE) -> None:
        """Install or renew ai_query() in a migrated database, with this server as the gateway's."""
        connection = await asyncpg.connect(self.url(SUPERUSER, database), timeout=10)
        try:
            await ai_query.install(connection, host=str(self._sockets), port=str(self._port))
            await connection.execute(f"GRANT CONNECT ON DATABASE {_identifier(database)} TO {DEMO}")
        finally:
            await connection.close()

    async def drop_database(self, name: str) -> None:
        """Drop a database and the sessions in it."""
        connection = await self._superuser()
        try:
            await connection.execute(f"DROP DATABASE IF EXISTS {_identifier(name)} WITH (FORCE)")
        finally:
            await connection.close()

    async def open_to_password(self, *roles: str) -> None:
        """Give those of `roles` that exist the loopback password; the superuser never gets one."""
        if self._tcp_port is None:
            return
        password = self._password()
        connection = await self._superuser()
        try:
            for role in roles:
                if role != SUPERUSER and await connection.fetchval(
                    "SELECT 1 FROM pg_roles WHERE rolname = $1 AND rolcanlogin AND NOT rolsuper", role
                ):
                    # ALTER ROLE takes no parameters; the password is 43 characters of base64.
                    await connection.execute(f"ALTER ROLE {_identifier(role)} PASSWORD '{password}'")
        finally:
            await connection.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def _port(self) -> int:
        return _DEFAULT_PORT if self._tcp_port is None else self._tcp_port

    def _spawn(self, programs: Path, data: Path, sockets: Path) -> Child:
        return spawn(
            "postgres",
            [
                programs / "bin" / "postgres", "-D", data,
                "-c", f"unix_socket_directories={sockets}",
                "-c", "unix_socket_permissions=0700",
                "-c", f"listen_addresses={'' if self._tcp_port is None else '127.0.0.1'}",
                "-c", f"port={self._port}",
            ],
            log=self.log,
            # SIGINT is PostgreSQL's fast shutdown: sessions end, a checkpoint is written.
            death_signal=signal.SIGINT,
            cwd=data,
            env=server_environment(),
            account=self._account,
        )  # fmt: skip

    async def _end_stray_server(self, data: Path) -> None:
        """End the server of an earlier life that was killed; ours starts on what it leaves."""
        note = _read_postmaster(data)
        if not note or not note[0].isdecimal():
            return
        pid = int(note[0])
        if not _serves(pid, data):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        if not await wait_until_gone(pid, 15):
            os.kill(pid, signal.SIGQUIT)
            if not await wait_until_gone(pid, 5):
                raise EmbeddedError(
                    f"An earlier PostgreSQL (process {pid}) does not end; end it, then start again."
                )

    async def _until_ready(self, data: Path, child: Child, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            note = _read_postmaster(data)
            # The eighth line is the server's own word on itself.
            if len(note) >= 8 and note[0] == str(child.pid) and note[7].strip() == "ready":
                return
            if not child.running:
                raise EmbeddedError(f"PostgreSQL did not start: {self._last_complaint()} (see {self.log})")
            if loop.time() > deadline:
                raise EmbeddedError(f"PostgreSQL was not ready after {seconds:.0f} s; see {self.log}")
            await asyncio.sleep(0.02)

    def _last_complaint(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-20:] if self.log.exists() else []
        complaints = [line for line in lines if "FATAL:" in line or "HINT:" in line or "could not" in line]
        if any("could not bind" in line or "Address already in use" in line for line in complaints):
            return f"port {self._port} of 127.0.0.1 is in use; set WEIGHBRIDGE_PG_PORT to another"
        chosen = complaints[-1] if complaints else (lines[-1] if lines else "it gave no reason")
        return chosen.rpartition(":  ")[2]

    async def _provision(self) -> None:
        connection = await self._superuser()
        try:
            roles = {row["rolname"] for row in await connection.fetch("SELECT rolname FROM pg_roles")}
            if OWNER not in roles:
                # The schema's owner makes the auditor's role, hence CREATEROLE.
                await connection.execute(f"CREATE ROLE {OWNER} LOGIN CREATEROLE")
            if APPLICATION not in roles:
                await connection.execute(f"CREATE ROLE {APPLICATION} LOGIN")
            if CALLER not in roles:
                # Made here, since the schema's owner would be a member of a role that it made.
                await connection.execute(f"CREATE ROLE {CALLER} LOGIN CONNECTION LIMIT 50")
                await connection.execute(
                    f"ALTER ROLE {CALLER} SET default_transaction_isolation = 'read committed'"
                )
            if DEMO not in roles:
                await connection.execute(f"CREATE ROLE {DEMO} LOGIN")
            made = await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE)
        finally:
            await connection.close()
        if not made:
            await self.create_database(DATABASE)
        if self._tcp_port is not None:
            await self.open_to_password(OWNER, APPLICATION)

    async def _superuser(self) -> asyncpg.Connection:
        return await asyncpg.connect(self.url(SUPERUSER, SUPERUSER), timeout=10)

    def _password(self) -> str:
        try:
            return self.password_file.read_text().strip()
        except FileNotFoundError:
            password = secrets.token_urlsafe(32)
            descriptor = os.open(self.password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(password + "\n")
            return password


def _identifier(name: str) -> str:
    if not name or "\0" in name or len(name.encode()) > _NAME_BYTES:
        raise ValueError(f"{name!r} is no name for a database object")
    return '"' + name.replace('"', '""') + '"'


def _read_postmaster(data: Path) -> list[str]:
    try:
        return (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []


def _serves(pid: int, data: Path) -> bool:
    """True when that process is a PostgreSQL working in `data`, not a newcomer with its old number."""
    try:
        return Path(f"/proc/{pid}/cwd").resolve() == data.resolve()
    except OSError:
        return False
