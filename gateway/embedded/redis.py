"""A real Redis (or Valkey) of our own on a private socket: soft state only, nothing is kept on disk.

It ends with the process that started it; what it held is rebuilt from the ledger, never from here.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from types import TracebackType
from typing import Self

from gateway.embedded.account import REDIS_ID, Account, service_account
from gateway.embedded.errors import EmbeddedError
from gateway.embedded.lock import HomeLock
from gateway.embedded.places import socket_folder
from gateway.embedded.process import Child, spawn
from gateway.embedded.programs import redis_program

_SOCKET_NAME = "redis.sock"


class EmbeddedRedis:
    """One server under `home`; built cheaply, started by `start` or `async with`."""

    def __init__(self, home: Path, *, megabytes: int = 512) -> None:
        """`megabytes` bounds its memory: beyond that, writes are refused rather than keys evicted."""
        self._home = home.absolute()
        self._megabytes = megabytes
        self._account: Account | None = service_account(REDIS_ID)
        self._lock = HomeLock(self._home / "redis.lock")
        self._child: Child | None = None
        self._socket: Path | None = None

    @property
    def log(self) -> Path:
        """What the server says about itself."""
        return self._home / "logs" / "redis.log"

    @property
    def child(self) -> Child:
        """The running server's process."""
        if self._child is None:
            raise EmbeddedError("The embedded Redis has not been started.")
        return self._child

    def url(self, database: int = 0) -> str:
        """Its address, in the form that redis-py's from_url takes."""
        if self._socket is None:
            raise EmbeddedError("The embedded Redis has not been started.")
        return f"unix://{self._socket}?db={database}"

    async def start(self, *, seconds: float = 15.0) -> None:
        """Start the server and wait for its first PONG."""
        if self._child is not None and self._child.running:
            return
        self._home.mkdir(parents=True, exist_ok=True)
        if not self._lock.take():
            raise EmbeddedError(f"The Redis under {self._home} is already run by another process.")
        try:
            program = await asyncio.to_thread(redis_program, self._account)
            folder = socket_folder(self._home / "run", "redis", self._account, longest_name=len(_SOCKET_NAME))
            path = folder / _SOCKET_NAME
            await _end_stray_server(path)
            self._socket = path
            self._child = self._spawn(program, folder, path)
            await self._until_ready(path, self._child, seconds)
        except BaseException:
            await self.stop()
            raise

    async def stop(self, *, seconds: float = 10.0) -> None:
        """Stop; there is nothing to write."""
        if self._child is not None:
            await self._child.stop(signal.SIGTERM, seconds)
            self._child = None
        self._lock.release()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _spawn(self, program: Path, folder: Path, path: Path) -> Child:
        return spawn(
            "redis",
            [
                program, "--port", "0", "--unixsocket", path, "--unixsocketperm", "700",
                "--save", "", "--appendonly", "no", "--dir", folder, "--daemonize", "no",
                "--maxmemory", f"{self._megabytes}mb", "--maxmemory-policy", "noeviction",
                "--loglevel", "notice",
            ],
            log=self.log,
            death_signal=signal.SIGTERM,
            cwd=folder,
            account=self._account,
        )  # fmt: skip

    async def _until_ready(self, path: Path, child: Child, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not await _pong(path):
            if not child.running:
                lines = self.log.read_text(errors="replace").splitlines() or ["it gave no reason"]
                raise EmbeddedError(f"Redis did not start: {lines[-1]} (see {self.log})")
            if loop.time() > deadline:
                raise EmbeddedError(f"Redis was not ready after {seconds:.0f} s; see {self.log}")
            await asyncio.sleep(0.01)


async def _end_stray_server(path: Path) -> None:
    """End the server of an earlier life that was killed and is still on its way out."""
    deadline = asyncio.get_running_loop().time() + 5
    while await _pong(path):
        if asyncio.get_running_loop().time() > deadline:
            raise EmbeddedError(f"An earlier Redis still listens on {path}; end it, then start again.")
        await _say(path, b"SHUTDOWN NOSAVE\r\n")
        await asyncio.sleep(0.05)


async def _pong(path: Path) -> bool:
    return (await _say(path, b"PING\r\n")).startswith(b"+PONG")


async def _say(path: Path, command: bytes) -> bytes:
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(command)
                return await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return b""
