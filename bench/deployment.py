"""What is measured: one worker and the drainer on one core; upstream, PostgreSQL and Redis on the other.

All of it is real and everything is on: embedded stores that keep what they are told, the scriptable upstream in a
process of its own, migrations, callers, limits and a budget.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.population import ORDINARY, Size, populate
from bench.ports import NotUp, end_of, free_port, until_open
from bench.processors import hurry, pinned
from gateway.embedded.postgres import EmbeddedPostgres
from gateway.embedded.process import Child, spawn
from gateway.embedded.redis import EmbeddedRedis
from gateway.settings import Settings
from gateway.store.migrate import upgrade
from gateway.supervise.listening import WorkerSockets, reserve

ROOT = Path(__file__).parents[1]


class Deployment:
    """Everything that runs beside the load generator; `async with` starts and stops it."""

    def __init__(
        self,
        home: Path,
        *,
        keys: int,
        cores: tuple[int, int],
        environment: dict[str, str],
        workers: int = 1,
        roam: bool = False,
        size: Size = ORDINARY,
        **settings: Any,
    ) -> None:
        """Where processes `roam`, each may run on either core; `settings` are fields of the gateway's own."""
        self.home = home
        self._workers = workers
        self._size = size
        self._settings = settings
        self.keys_file = home / "keys"
        self.upstream_port = 0
        self.port = 0
        self._keys = keys
        self._other_cores, self._cores = (set(cores), set(cores)) if roam else ({cores[0]}, {cores[1]})
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        self._postgres = EmbeddedPostgres(home)
        self._redis = EmbeddedRedis(home)
        self._sockets: list[WorkerSockets] = []
        self._children: list[Child] = []
        self.workers: list[Child] = []
        self.worker: Child
        self.drainer: Child

    @property
    def database_url(self) -> str:
        """PostgreSQL, as the application's role."""
        return self._postgres.url()

    @property
    def redis_url(self) -> str:
        """Redis."""
        return self._redis.url()

    def groups(self) -> dict[str, tuple[int, ...]]:
        """Whose processor time is counted, by name."""
        return {
            "worker": tuple(each.pid for each in self.workers),
            "drainer": (self.drainer.pid,),
            "redis": (self._redis.child.pid,),
            "postgresql": (self._postgres.child.pid,),
            "upstream": (self._children[0].pid,),
        }

    async def __aenter__(self) -> Deployment:
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _start(self) -> None:
        with pinned(*self._other_cores):
            await asyncio.gather(self._postgres.start(), self._redis.start())
            await upgrade(self._postgres.url("weighbridge_owner"))
            self.upstream_port = free_port()
            arguments = ["tests.faults.upstream", "--port", str(self.upstream_port)]
            self._spawn("upstream", arguments, {})
        self.port = free_port()
        settings = replace(
            Settings.from_env(
                {
                    "WEIGHBRIDGE_HOME": str(self.home),
                    "WEIGHBRIDGE_UPSTREAM_CLIENT": os.environ.get("WEIGHBRIDGE_UPSTREAM_CLIENT", ""),
                }
            ),
            port=self.port,
            workers=self._workers,
            engine="none",
            engine_url=f"http://127.0.0.1:{self.upstream_port}",
            **self._settings,
        )
        await populate(settings, self.database_url, self._keys, self.keys_file, self._size)
        settings = replace(settings, database_url=self.database_url, redis_url=self.redis_url)
        await until_open(self.upstream_port, "upstream", self._log("upstream"))
        self._sockets = reserve(settings)
        for each in self._sockets:
            each.listen()
        with pinned(*self._cores):
            for index, each in enumerate(self._sockets):
                fd = each.main.fileno()
                arguments = ["gateway", "worker", "--index", str(index), "--fd", str(fd)]
                name = "worker" if self._workers == 1 else f"worker-{index}"
                self.workers.append(self._spawn(name, arguments, settings.to_env(), (fd,)))
            self.worker = self.workers[0]
            self.drainer = self._spawn("drainer", ["gateway", "drain"], settings.to_env())
        for pids in self.groups().values():
            for pid in pids:
                hurry(pid)
        await self._until_ready()

    async def stop(self) -> None:
        """Stop all of it, the stores last."""
        for child in reversed(self._children):
            with contextlib.suppress(ProcessLookupError):
                await child.stop(signal.SIGTERM, 40.0)
        self._children.clear()
        for each in self._sockets:
            each.close()
        await self._redis.stop()
        await self._postgres.stop()

    def _spawn(
        self, name: str, arguments: list[str], env: dict[str, str], fds: tuple[int, ...] = ()
    ) -> Child:
        child = spawn(
            name,
            [sys.executable, "-m", *arguments],
            log=self._log(name),
            death_signal=signal.SIGKILL,
            cwd=ROOT if name == "upstream" else self.home,
            env={**self._environment, **env},
            pass_fds=fds,
        )
        self._children.append(child)
        return child

    def _log(self, name: str) -> Path:
        return self.home / "logs" / f"{name}.log"

    async def _until_ready(self, seconds: float = 30.0) -> None:
        for _ in range(int(seconds / 0.1)):
            for child in (*self.workers, self.drainer):
                if not child.running:
                    raise NotUp(
                        f"the {child.name} ended with {child.returncode}\n{end_of(self._log(child.name))}"
                    )
            if await self._readiness():
                return
            await asyncio.sleep(0.1)
        raise NotUp(f"the worker is not ready after {seconds:.0f} s\n{end_of(self._log('worker'))}")

    async def _readiness(self) -> bool:
        try:
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    return b" 200 " in await reader.readline()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False
