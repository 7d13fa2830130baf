"""A whole gateway for tests: real workers and a real drainer as processes, on real stores, against the oracle.

    async with Upstream() as upstream:
        async with Deployment(home=..., database_url=..., redis_url=..., engine_url=upstream.url) as gateway:
            transcripts = await drive(gateway.target, calls(seed=7, keys=[gateway.demo_key]), count=100)
            await gateway.drained()
            assert not reconcile(await gateway.ledger_rows(), upstream.records, transcripts)

A worker or drainer that dies is started again at once on the socket it had, as the supervisor does. Where something
never comes about, the error carries the ends of the logs.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from redis import Redis

from gateway.embedded.process import Child
from gateway.security.keys import Peppers
from gateway.security.secrets import Purpose, load_master_key
from gateway.seed import ENDPOINT, seed
from gateway.settings import Settings
from gateway.spool.records import MAGIC, Intent
from gateway.spool.segments import decode, payloads
from gateway.store import database
from gateway.store.api_keys import NewKey, create_key
from gateway.store.changes import Actor, Configuration
from gateway.store.endpoints import endpoint_named, grant
from gateway.store.principals import create_principal
from gateway.store.rules import create_limit
from gateway.supervise.listening import WorkerSockets, reserve
from gateway.supervise.nursery import Nursery
from tests.faults.killer import died
from tests.faults.wire import Target
from tests.system.asking import Answer, ask

ROOT = Path(__file__).parents[2]
_FOLLOWS = re.compile(r'^weighbridge_configuration\{pid="(\d+)"\} (\S+)$', re.MULTILINE)
NURSERY = Nursery(
    Path(tempfile.gettempdir()) / f"wb-cradle-{os.getpid()}.log", {**os.environ, "PYTHONPATH": str(ROOT)}
)
"""Forks every process of every deployment, as the product's own supervisor does; ends with this process."""


@dataclass(frozen=True, slots=True)
class Person:
    """A user to create before the workers start: limits as the store takes them, and whether it may query."""

    limits: tuple[Mapping[str, Any], ...] = ()
    may_query: bool = True


BULK = Person()


def limit(metric: str, amount: int, window_ms: int = 60_000, **more: Any) -> dict[str, Any]:
    """A rolling limit in the store's columns."""
    return {
        "metric": metric,
        "amount": amount,
        "window_kind": "rolling",
        "window_ms": window_ms,
        **more,
    }


@dataclass(slots=True)
class _Process:
    """One of the deployment's processes, whichever incarnation."""

    name: str
    arguments: list[str]
    descriptors: tuple[int, ...] = ()
    child: Child | None = None
    starts: int = 0
    extra: dict[str, str] = field(default_factory=dict[str, str])
    """Environment of the next incarnation only."""
    keeper: asyncio.Task[None] | None = None


class Deployment:
    """`url`, `admin_key`, `demo_key`, `keys[name]` for those who call it; kills, restarts and books for tests."""

    def __init__(
        self,
        *,
        home: Path,
        database_url: str,
        redis_url: str,
        engine_url: str | None,
        workers: int = 4,
        people: Mapping[str, Person] | None = None,
        environment: Mapping[str, str] | None = None,
        books_url: str | None = None,
        counters_url: str | None = None,
        awaits: str = "/readyz",
        first: bool = True,
        sql_calls: bool = False,
    ) -> None:
        """A second deployment on the same database (`first` False) makes no people and has the first one's key files.

        `sql_calls` starts the process that answers calls from SQL. `awaits` is the page that answers 200 once a worker counts as started. `books_url` and `counters_url` are
        where tests look, where the gateway's own links lead through a fault proxy.
        """
        self.home = home
        self._database_url = database_url
        self._books_url = books_url or database_url
        self._redis_url = redis_url
        self._counters_url = counters_url or redis_url
        self._engine_url = engine_url
        self._count = workers
        self._awaits = awaits
        self._sql_calls = sql_calls
        own = {"bulk": BULK, "stranger": Person(may_query=False)} if first else {}
        self._people = {**own, **(people or {})}
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
        # A machine of tests is busier than any, and what they ask is to be answered.
        self._chosen = {"WEIGHBRIDGE_OVERLOAD_MS": "5000", **(environment or {})}
        self._environment.pop("WEIGHBRIDGE_CRASH_AT", None)
        self._processes: dict[str, _Process] = {}
        self._sockets: list[WorkerSockets] = []
        self._stopping = False
        self.keys: dict[str, str] = {}
        self.ids: dict[str, str] = {}
        self.port = 0

    # -- addresses -----------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The base address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def target(self) -> Target:
        """Where the load generator sends chat completions."""
        return Target(port=self.port)

    @property
    def admin_key(self) -> str:
        """Key of the administrator."""
        return self.keys["admin"]

    @property
    def demo_key(self) -> str:
        """Key of the user `demo`, with the limits of a first start."""
        return self.keys["demo"]

    @property
    def settings(self) -> Settings:
        """What the processes are given."""
        return Settings.from_env(self._variables())

    def _variables(self) -> dict[str, str]:
        base = Settings.from_env({**self._chosen, "WEIGHBRIDGE_HOME": str(self.home)})
        return replace(
            base,
            port=self.port,
            workers=self._count,
            database_url=self._database_url,
            redis_url=self._redis_url,
            # The real one is on a socket, and keeps its adapters below this home.
            engine="vllm" if (self._engine_url or "").startswith("unix:") else "none",
            engine_url=self._engine_url,
            # Providers of the tests are on this machine.
            provider_hosts=frozenset({"127.0.0.1"}),
        ).to_env()

    # -- life ----------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _start(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        await self._seed()
        self._sockets = reserve(self.settings)
        for index, each in enumerate(self._sockets):
            each.listen()
            arguments = ["worker", "--index", str(index), "--fd", str(each.main.fileno())]
            self._processes[f"worker-{index}"] = _Process(f"worker-{index}", arguments, each.descriptors)
        self._processes["drainer"] = _Process("drainer", ["drain"])
        if self._sql_calls:
            self._processes["sql-calls"] = _Process("sql-calls", ["sql-calls"])
        for process in self._processes.values():
            await self._spawn(process)
            process.keeper = asyncio.create_task(self._keep(process))
        await self.ready()

    async def stop(self) -> dict[str, int]:
        """SIGTERM to the workers, then to the drainer; their exit statuses. What does not end is killed."""
        self._stopping = True
        statuses: dict[str, int] = {}
        workers = [process for name, process in self._processes.items() if name != "drainer"]
        for group in (workers, [each for each in self._processes.values() if each not in workers]):
            for process in group:
                if process.keeper is not None:
                    process.keeper.cancel()
            found = [process for process in group if process.child is not None]
            ended = await asyncio.gather(
                *(each.child.stop(signal.SIGTERM, 20.0) for each in found if each.child is not None)
            )
            statuses |= {each.name: status for each, status in zip(found, ended, strict=True)}
        self._processes.clear()
        for each in self._sockets:
            each.close()
        self._sockets = []
        return statuses

    async def _seed(self) -> None:
        base = Settings.from_env({"WEIGHBRIDGE_HOME": str(self.home), "WEIGHBRIDGE_PORT": str(self.port)})
        seeded = await seed(base, self._database_url)
        self.keys["admin"] = seeded.admin_key_file.read_text().strip()
        self.keys["demo"] = seeded.demo_key_file.read_text().strip()
        master = load_master_key(base.secret_file)
        peppers = Peppers(master.derive_all(Purpose.API_KEY_PEPPER))
        engine = database.engine(self._database_url, application_name="weighbridge-test", size=0)
        configuration = Configuration(engine, master.derive(Purpose.AUDIT_CHAIN))
        try:
            async with configuration.change(Actor(None, "test"), "people of the test") as change:
                endpoint = await endpoint_named(change, ENDPOINT)
                self.ids[ENDPOINT] = endpoint["id"]
                for name, person in self._people.items():
                    made = await create_principal(change, "user", {"name": name, "display_name": name})
                    self.ids[name] = made["id"]
                    if person.may_query:
                        await grant(change, endpoint, "user", made["id"], "CAN_QUERY")
                    for each in person.limits:
                        row = await create_limit(change, {"scope": "user", "subject_id": made["id"], **each})
                        self.ids[f"{name}/{each['metric']}"] = row["id"]
                    _, self.keys[name] = await create_key(change, peppers, NewKey(made["id"]))
        finally:
            await engine.dispose()

    async def _spawn(self, process: _Process) -> None:
        extra, process.extra = process.extra, {}
        process.child = await NURSERY.bear(
            process.name,
            process.arguments,
            log=self.log(process.name),
            death_signal=signal.SIGKILL,
            cwd=self.home,
            env={**self._environment, **self._variables(), **extra},
            pass_fds=process.descriptors,
        )
        process.starts += 1

    async def _keep(self, process: _Process) -> None:
        while True:
            assert process.child is not None
            status = await process.child.wait()
            if self._stopping:
                return
            if status != -signal.SIGKILL:
                # A crash of its own accord must not become a busy loop.
                await asyncio.sleep(0.2)
            await self._spawn(process)

    # -- processes -----------------------------------------------------------------------------

    def workers(self) -> list[int]:
        """The workers' process ids, by index."""
        return [self.pid(f"worker-{index}") for index in range(self._count)]

    @property
    def drainer(self) -> int:
        """The drainer's process id."""
        return self.pid("drainer")

    def everybody(self) -> list[int]:
        """Everything that may be killed."""
        return [*self.workers(), self.drainer]

    def starts(self, name: str) -> int:
        """How often `worker-0`, ... or `drainer` was started."""
        return self._processes[name].starts

    def pid(self, name: str) -> int:
        """Process id of `worker-0`, ... or `drainer`."""
        child = self._processes[name].child
        assert child is not None
        return child.pid

    async def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Kill one and wait until its successor has been started (not until it is ready)."""
        process = self._processes[name]
        pid, starts = self.pid(name), process.starts
        os.kill(pid, number)
        await died(pid, timeout=45.0)
        await self._until(lambda: process.starts > starts, f"{name} started again", 5.0)

    async def arm(self, name: str, environment: Mapping[str, str]) -> int:
        """Kill it and give its next incarnation this environment; answers how often it was started then."""
        self._processes[name].extra = dict(environment)
        await self.kill(name)
        return self.starts(name)

    async def fell(self, name: str, starts: int, timeout: float = 20.0) -> None:
        """Wait until an armed process has died at its point: `starts` is what `arm` answered."""
        await self._until(lambda: self.starts(name) > starts, f"{name} died at its point", timeout)

    async def ready(self, timeout: float = 60.0) -> None:
        """Every worker answers with 200: the kernel gives each a share of many fresh connections."""
        deadline = time.monotonic() + timeout
        many = 12 * self._count
        while True:
            answers = await asyncio.gather(
                *(self.ask("GET", self._awaits, timeout=timeout) for _ in range(many)), return_exceptions=True
            )
            if all(isinstance(each, Answer) and each.status == 200 for each in answers):
                return
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"not ready after {timeout:.0f} s: {answers[0]!r}\n{self.ends_of_logs()}"
                )
            await asyncio.sleep(0.1)

    # -- calls ---------------------------------------------------------------------------------

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        timeout: float = 30.0,
    ) -> Answer:
        """One call on a connection of its own; `body` is JSON unless it is bytes."""
        return await ask(self.port, method, path, body, key=key, headers=headers, timeout=timeout)

    async def administer(self, method: str, path: str, body: object = None) -> Any:
        """A call of /admin/v1 that must succeed; its answer once every worker follows it."""
        headers: list[tuple[str, str]] = []
        if method in ("PUT", "PATCH", "DELETE"):
            seen = await self.ask("GET", f"/admin/v1{path}", key=self.admin_key)
            headers = [("if-match", seen.headers.get("etag", "*"))]
        answer = await self.ask(method, f"/admin/v1{path}", body, key=self.admin_key, headers=headers)
        assert answer.status < 300, f"{method} {path}: {answer.status} {answer.body!r}"
        if method != "GET":
            await self.followed()
        return answer.json() if answer.body else None

    async def followed(self, timeout: float = 30.0) -> None:
        """Wait until every worker follows the configuration as it is now."""
        (newest,) = await self.query(
            "SELECT coalesce(max(number), 0) AS number FROM gateway.configuration_change"
        )
        deadline = time.monotonic() + timeout
        while True:
            page = (await self.ask("GET", "/metrics")).body.decode()
            told = {int(pid): float(number) for pid, number in _FOLLOWS.findall(page)}
            if all(told.get(pid, -1) >= newest["number"] for pid in self.workers()):
                return
            assert time.monotonic() < deadline, f"not followed: {newest}, {told}\n{self.ends_of_logs()}"
            await asyncio.sleep(0.02)

    # -- books ---------------------------------------------------------------------------------

    def intents(self) -> set[bytes]:
        """Every request id that any worker, dead or alive, has put on record."""
        found: set[bytes] = set()
        # A folder that begins with a dot is a spool in the making, and has its name in a moment.
        for path in (self.home / "spool").glob("[!.]*/*.seg"):
            data = path.read_bytes()
            for number, (payload, _) in enumerate(payloads(data, len(MAGIC))):
                if number == 0:
                    continue  # the segment's header
                record = decode(payload)
                if isinstance(record, Intent):
                    found.add(bytes(record.request_id))
        return found

    async def drained(self, timeout: float = 30.0) -> None:
        """Wait until the ledger has a row for every intent; what it holds is for `reconcile` to judge."""
        deadline = time.monotonic() + timeout
        connection = await database.connect(self._books_url, application_name="weighbridge-test")
        try:
            while True:
                wanted = len(self.intents())
                posted = await connection.fetchval("SELECT count(*) FROM gateway.requests")
                if posted >= wanted:
                    return
                if time.monotonic() > deadline:
                    raise AssertionError(
                        f"{wanted - posted} of {wanted} requests are not in the ledger after {timeout:.0f} s\n"
                        f"{self.ends_of_logs()}"
                    )
                await asyncio.sleep(0.05)
        finally:
            await connection.close()

    async def query(self, text: str, *arguments: object) -> list[dict[str, Any]]:
        """Rows of a query, straight from PostgreSQL."""
        connection = await database.connect(self._books_url, application_name="weighbridge-test")
        try:
            return [dict(row) for row in await connection.fetch(text, *arguments)]
        finally:
            await connection.close()

    async def ledger_rows(self) -> list[dict[str, Any]]:
        """Every row of the ledger."""
        return await self.query("SELECT * FROM gateway.requests ORDER BY request_id")

    async def row_of(self, request_id: str, timeout: float = 10.0) -> dict[str, Any]:
        """The one row of a request, once it is there."""
        deadline = time.monotonic() + timeout
        while True:
            found = await self.query("SELECT * FROM gateway.requests WHERE request_id = $1::uuid", request_id)
            if found:
                assert len(found) == 1, f"{len(found)} rows of {request_id}"
                return found[0]
            assert time.monotonic() < deadline, f"no row of {request_id}\n{self.ends_of_logs()}"
            await asyncio.sleep(0.05)

    # -- counters ------------------------------------------------------------------------------

    def counter(self, who: str, metric: str) -> int:
        """What Redis holds for a person's limit of that metric; every worker's share where it counts what runs."""
        limit_id = self.ids[f"{who}/{metric}"]
        kind = "n" if metric == "concurrent_requests" else "r"
        held = 0
        with Redis.from_url(self._counters_url) as client:
            for key in client.scan_iter(f"{{wb}}:{kind}:{limit_id}:*"):
                fields: dict[bytes, bytes] = client.hgetall(key)  # pyright: ignore[reportAssignmentType]
                held += sum(map(int, fields.values())) if kind == "n" else int(fields.get(b"t", 0))
        return held

    # -- logs ----------------------------------------------------------------------------------

    def log(self, name: str) -> Path:
        """Where a process writes."""
        return self.home / "logs" / f"{name}.log"

    def ends_of_logs(self, lines: int = 15) -> str:
        """What every process said last, for a test that fails."""
        parts: list[str] = []
        for path in sorted((self.home / "logs").glob("*.log")):
            told = path.read_text(errors="replace").splitlines()[-lines:]
            parts.append(f"--- {path.name}\n" + "\n".join(told))
        return "\n".join(parts)

    async def _until(self, holds: Any, what: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not holds():
            assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {what}\n{self.ends_of_logs()}"
            await asyncio.sleep(0.01)


def free_port() -> int:
    """A port of the loopback address that nobody holds now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def chat(
    content: str = "hello",
    *,
    model: str = ENDPOINT,
    max_tokens: int | None = 16,
    stream: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """A chat completion request; a script for the oracle goes into `content` in double brackets."""
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": content}], **more}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if stream:
        body["stream"] = True
    return body


__all__ = ["BULK", "ENDPOINT", "Deployment", "Person", "chat", "free_port", "limit"]
