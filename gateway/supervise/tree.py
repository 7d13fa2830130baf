"""The tree of processes behind `weighbridge up` and `serve`: what is started after what, and stopped before what.

Stores come before the schema, the schema before workers, workers before the engine (whose start takes longest);
the stop runs the other way round, so that a worker never outlives what it settles into.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from gateway.embedded.postgres import OWNER, EmbeddedPostgres
from gateway.embedded.process import Child, spawn
from gateway.embedded.redis import EmbeddedRedis
from gateway.security.secrets import SecretError, load_master_key
from gateway.settings import Settings
from gateway.supervise import logs
from gateway.supervise.embedder import chosen as with_embedder
from gateway.supervise.engine import GIVEN_UP, own_engine_url
from gateway.supervise.instance import ProcessNote, State
from gateway.supervise.keeper import Keeper
from gateway.supervise.listening import WorkerSockets, reserve
from gateway.supervise.nursery import Nursery
from gateway.supervise.preflight import CannotRun, check_engine
from gateway.supervise.probe import answer_of
from gateway.supervise.readiness import engine_shown, stores_shown, watch_readiness
from gateway.supervise.screen import Screen, last_line, welcome
from gateway.telemetry import forget_present, metrics_folder

DRAIN_SECONDS = 30.0
SQL_CALLS = "sql-calls"
"""The process that answers calls from SQL."""
_SPOOL_SECONDS = 20.0
_ENGINE_SECONDS = 20.0
_UP_SECONDS = 60.0


@dataclass(slots=True)
class Tree:
    """One instance's processes; `start` and `stop` are each called once, `stop` after a failed start too."""

    settings: Settings
    screen: Screen
    state: State
    everything: bool
    """True for `up` (embedded stores, migration, seed, engine), False for `serve`."""
    program: Sequence[str] | None = None
    """What stands in for the gateway's own commands, started as a program each time; None: they are forked."""
    nursery: Nursery = field(init=False)
    postgres: EmbeddedPostgres | None = None
    redis: EmbeddedRedis | None = None
    sockets: list[WorkerSockets] = field(default_factory=list[WorkerSockets])
    keepers: dict[str, Keeper] = field(default_factory=dict[str, Keeper])
    tasks: list[asyncio.Task[None]] = field(default_factory=list[asyncio.Task[None]])
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    """Set to end the waits of `stop`: children are then killed."""

    def __post_init__(self) -> None:
        self.nursery = Nursery(self.log_folder / "cradle.log", _environment(self.settings))

    @property
    def log_folder(self) -> Path:
        """Where the children's logs are."""
        return self.settings.home / "logs"

    async def start(self) -> None:
        """Bring everything up in order and print the closing screen."""
        self.sockets = reserve(self.settings)
        # Of processes that an earlier supervisor left behind, as no other instance runs from here.
        forget_present(metrics_folder(self.settings.home))
        # What children need is imported while the stores start.
        if self.program is None:
            self.nursery.start()
        self.tasks.append(asyncio.create_task(logs.keep_bounded(self.log_folder)))
        own_engine = self.everything and self.settings.engine == "vllm" and self.settings.engine_url is None
        if self.everything:
            if self.settings.pin == "auto":
                # Stores and engine run here too: pinned workers could not make way for them.
                self.settings = replace(self.settings, pin="no")
            # The children see addresses of stores and cannot tell embedded ones from others: the key is made here.
            self._master_key(create=self.settings.embedded)
            if own_engine:
                await asyncio.to_thread(check_engine, self.settings)
            await self._start_stores()
            if own_engine:
                self.settings = replace(self.settings, engine_url=own_engine_url(self.settings))
                self.settings = with_embedder(self.settings)
            await self._run_once("migrate", "Database", "applying migrations")
            if self.postgres is not None:
                await self.postgres.install_ai_query()
                await self.postgres.open_to_password(OWNER, "weighbridge_auditor", "demo")
            await self._run_once("seed", "First objects", "endpoints, users and keys")
        self.state.engine_url = self.settings.engine_url or ""
        await self._start_gateway()
        self._note(phase="running")
        self.screen.write(
            welcome(
                self.settings,
                self.screen.seconds,
                stores_shown(self.settings, self.postgres, self.redis) if self.everything else {},
                engine_shown(self.settings, own_engine=own_engine),
            )
        )
        if own_engine:
            await self._keep("engine", self._child("engine", "engine"))
            if self.settings.embedder == "vllm":
                await self._keep("embedder", self._child("embedder", "embedder"))
        if self.settings.engine_url is not None:
            watch = watch_readiness(
                self.settings, self.screen, own_engine=own_engine, given_up=self._engine_given_up
            )
            self.tasks.append(asyncio.create_task(watch))

    async def stop(self) -> None:
        """Close the listeners, let workers finish, then the drainer, the engine, Redis and PostgreSQL."""
        self._note(phase="stopping")
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for keeper in self.keepers.values():
            await keeper.release()
        workers = {name: keeper for name, keeper in self.keepers.items() if name.startswith("worker-")}
        await self._end({**workers, **self._only(SQL_CALLS)}, "Gateway", "finishing calls", DRAIN_SECONDS + 5)
        await self._end(self._only("drainer"), "Drainer", "writing what is settled", _SPOOL_SECONDS)
        engines = self._only("engine") | self._only("embedder")
        await self._end(engines, "Engine", "stopping", _ENGINE_SECONDS)
        if self.redis is not None:
            await self.redis.stop()
        if self.postgres is not None:
            await self.postgres.stop()
        await self.nursery.stop()
        self._note(phase="stopped")

    async def _start_stores(self) -> None:
        settings = self.settings
        if settings.database_url is None:
            self.postgres = EmbeddedPostgres(settings.home, tcp_port=settings.pg_port)
            known = (settings.home / "postgres" / "PG_VERSION").exists()
            async with self.screen.step("PostgreSQL", "starting" if known else "setting up"):
                await self._keep("postgres", self._restartable(self.postgres))
            self.settings = replace(
                self.settings,
                database_url=self.postgres.url(),
                migrate_database_url=self.postgres.url(OWNER),
            )
        if settings.redis_url is None:
            self.redis = EmbeddedRedis(settings.home)
            async with self.screen.step("Redis", "starting"):
                await self._keep("redis", self._restartable(self.redis))
            self.settings = replace(self.settings, redis_url=self.redis.url())

    def _master_key(self, *, create: bool) -> None:
        try:
            load_master_key(self.settings.secret_file, create=create)
        except (SecretError, OSError) as exc:
            raise CannotRun(str(exc)) from exc

    async def _start_gateway(self) -> None:
        async with self.screen.step(
            "Gateway", "starting", lambda: last_line(self.log_folder / "worker-0.log")
        ):
            for index, opened in enumerate(self.sockets):
                opened.listen()
                arguments = ["worker", "--index", str(index), "--fd", str(opened.main.fileno())]
                if opened.admin is not None:
                    arguments += ["--admin-fd", str(opened.admin.fileno())]
                name = f"worker-{index}"
                await self._keep(name, self._child(name, *arguments, descriptors=opened.descriptors))
            await self._keep("drainer", self._child("drainer", "drain"))
            await self._keep(SQL_CALLS, self._child(SQL_CALLS, SQL_CALLS))
            await self._until_up()

    async def _until_up(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _UP_SECONDS
        while True:
            status, _ = await answer_of(self.settings, "/healthz")
            if status == 200:
                return
            failing = [keeper.name for keeper in self.keepers.values() if keeper.restarts >= 2]
            if failing or loop.time() > deadline:
                name = failing[0] if failing else "worker-0"
                log = self.log_folder / f"{name}.log"
                what = f"{name} ends again and again" if failing else f"no answer within {_UP_SECONDS:.0f} s"
                raise CannotRun(f"The gateway did not come up: {what}: {last_line(log)} (see {log})")
            await asyncio.sleep(0.05)

    async def _run_once(self, command: str, title: str, doing: str) -> None:
        log = self.log_folder / f"{command}.log"
        async with self.screen.step(title, doing, lambda: last_line(log)):
            child = await self._child(command, command)()
            try:
                status = await child.wait()
            except asyncio.CancelledError:
                child.kill_group()
                raise
            if status != 0:
                raise CannotRun(f"`weighbridge {command}` failed: {last_line(log)} (see {log})")

    def _engine_given_up(self) -> bool:
        engine = self.keepers.get("engine")
        return engine is not None and engine.child is not None and engine.child.returncode == GIVEN_UP

    async def _keep(self, name: str, start: Callable[[], Awaitable[Child]]) -> None:
        keeper = Keeper(name, start, self._child_changed, self.screen.say, given_up=GIVEN_UP)
        self.keepers[name] = keeper
        await keeper.begin()

    def _restartable(self, store: EmbeddedPostgres | EmbeddedRedis) -> Callable[[], Awaitable[Child]]:
        async def start() -> Child:
            await store.start()
            return store.child

        return start

    def _child(
        self, name: str, *arguments: str, descriptors: tuple[int, ...] = ()
    ) -> Callable[[], Awaitable[Child]]:
        async def start() -> Child:
            log, env = self.log_folder / f"{name}.log", _environment(self.settings)
            if self.program is not None:
                return spawn(
                    name,
                    [*self.program, *arguments],
                    log=log,
                    death_signal=signal.SIGTERM,
                    cwd=self.settings.home,
                    env=env,
                    pass_fds=descriptors,
                )
            return await self.nursery.bear(
                name,
                arguments,
                log=log,
                death_signal=signal.SIGTERM,
                cwd=self.settings.home,
                env=env,
                pass_fds=descriptors,
            )

        return start

    def _child_changed(self, keeper: Keeper) -> None:
        before = self.state.children.get(keeper.name)
        if before is not None and (keeper.child is None or keeper.child.pid != before.pid):
            forget_present(metrics_folder(self.settings.home), before.pid)
        if keeper.child is None:
            self.state.children.pop(keeper.name, None)
        else:
            self.state.children[keeper.name] = ProcessNote.of(keeper.child.pid, keeper.restarts)
        self._note()

    def _note(self, phase: str | None = None) -> None:
        if phase is not None:
            self.state.phase = phase
        # A full disk must not end the supervisor: the file only describes.
        with suppress(OSError):
            self.state.save(self.settings.home)

    def _only(self, name: str) -> dict[str, Keeper]:
        return {name: self.keepers[name]} if name in self.keepers else {}

    async def _end(self, keepers: dict[str, Keeper], title: str, doing: str, grace: float) -> None:
        """Ask children to end and wait, at most `grace` seconds or until the person is in a hurry."""
        if title == "Gateway":
            for opened in self.sockets:
                opened.close()
        children = [
            keeper.child for keeper in keepers.values() if keeper.child is not None and keeper.child.running
        ]
        if not children:
            return
        for child in children:
            child.send(signal.SIGTERM)
        async with self.screen.step(title, doing, ended="stopped"):
            waits = [asyncio.ensure_future(child.wait()) for child in children]
            hurry = asyncio.ensure_future(self.hurry.wait())
            everyone = asyncio.ensure_future(asyncio.gather(*waits))
            await asyncio.wait({everyone, hurry}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
            for child in children:
                child.kill_group()
            await everyone


def _environment(settings: Settings) -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    return {**os.environ, **settings.to_env(), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
