"""Real stores for tests: one PostgreSQL and one Redis a session, a fresh database a module, started when asked for.

Nothing here runs at collection, and a test that asks for no store starts none.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Generator, Iterator
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from tests.together import FilesTogether, wants_engine

if TYPE_CHECKING:
    from engines.local.launch import EngineSpec
    from gateway.embedded.postgres import EmbeddedPostgres
    from gateway.embedded.redis import EmbeddedRedis

# A busy machine draws and runs examples slowly; that says nothing of the code.
settings.register_profile(
    "steady", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("steady")

_TEMPLATE = "migrated_template"
# What collecting makes lives until the end: looking through it again and again was a sixth of the time that it takes.
gc.disable()

_STARTS_PROCESSES = {"system", "supervise", "console", "clients", "engine_local"}
_numbers = count(1)
T = TypeVar("T")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say in which order files are dealt out, and on which loop tests of a module's own deployment run: on its.

    The engine's come first: they wait longest, for it to start. The next are those that start processes and take long,
    then those that want a store; last are those that wait until no other test runs, so that files of a second fill the
    time before them.
    """
    for item in items:
        if "shared_deployment" in getattr(item, "fixturenames", ()) and pytest_asyncio.is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="module"), append=False)
    waiting = {item.path for item in items if _is_alone(item)}
    storing = {item.path for item in items if "stores_home" in getattr(item, "fixturenames", ())}
    sizes = Counter(item.path for item in items)

    def turn(item: pytest.Item) -> tuple[bool, bool, float]:
        if not _STARTS_PROCESSES.isdisjoint(item.path.parts):
            return not wants_engine(item.path), item.path in waiting, -2
        # Of those that only compute, the shorter ones come last.
        return (
            not wants_engine(item.path),
            item.path in waiting,
            -1 if item.path in storing else 1 / sizes[item.path],
        )

    items.sort(key=turn)


def pytest_collection_finish() -> None:
    """Look for cycles from here on, and never again among the tests and what they imported."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FilesTogether:
    """Keep a file's tests in one process."""
    return FilesTogether(config, log)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Wait for a turn, outside any test's time limit: a test marked `alone` runs while no other does.

    A turn lasts as long as tests of the same file want the same: an upstream that lives on the file's loop answers
    nobody while the process waits between two tests, and what calls it would take it for dead.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    if _turn.closed:
        _turn.take(alone=_is_alone(item))
    try:
        return (yield)
    finally:
        if nextitem is None or nextitem.path != item.path or _is_alone(nextitem) != _is_alone(item):
            _turn.end()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the gateway's processes said last where a test of theirs fails: they only name a request id to callers."""
    report = yield
    if report.failed and isinstance(call.excinfo, pytest.ExceptionInfo):
        for name, value in getattr(item, "funcargs", {}).items():
            if callable(said := getattr(value, "ends_of_logs", None)):
                report.sections.append((f"logs of {name}", str(said(40))))
    return report


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


class _Turn:
    """This process' hold on the file that all test processes know: this one."""

    def __init__(self) -> None:
        self._held: IO[str] | None = None

    @property
    def closed(self) -> bool:
        return self._held is None

    def take(self, *, alone: bool) -> None:
        self._held = Path(__file__).open()
        fcntl.flock(self._held, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)

    def end(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None


_turn = _Turn()


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run on a loop of its own: the stores outlive every test's loop and belong to none."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


@pytest.fixture(scope="session")
def stores_home() -> Iterator[Path]:
    """A folder short enough for sockets and, as root, open to the servers' own users."""
    home = Path(tempfile.mkdtemp(prefix="wb-test-"))
    if os.geteuid() == 0:
        home.chmod(0o711)
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(stores_home: Path) -> Iterator[EmbeddedPostgres]:
    """A real PostgreSQL for the whole session, without fsync."""
    from gateway.embedded.postgres import EmbeddedPostgres

    server = EmbeddedPostgres(stores_home, durable=False)
    run_now(server.start())
    yield server
    run_now(server.stop())


@pytest.fixture(scope="session")
def migrated_template(postgres_server: EmbeddedPostgres) -> str:
    """The name of a database with every migration applied, copied for each module."""
    from gateway.store.migrate import upgrade

    async def build() -> None:
        await upgrade(await postgres_server.create_database(_TEMPLATE))

    run_now(build())
    return _TEMPLATE


@pytest.fixture(scope="module")
def database_name(postgres_server: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """A fresh migrated database for this module."""
    name = f"test_{next(_numbers)}"
    run_now(postgres_server.create_database(name, template=migrated_template))
    yield name
    run_now(postgres_server.drop_database(name))


@pytest.fixture(scope="module")
def database_url(postgres_server: EmbeddedPostgres, database_name: str) -> str:
    """That database as the application's role, which owns nothing."""
    return postgres_server.url(database=database_name)


@pytest.fixture(scope="module")
def owner_url(postgres_server: EmbeddedPostgres, database_name: str) -> str:
    """That database as the schema's owner."""
    return postgres_server.url("weighbridge_owner", database_name)


@pytest.fixture(scope="session")
def redis_server(stores_home: Path) -> Iterator[EmbeddedRedis]:
    """A real Redis for the whole session."""
    from gateway.embedded.redis import EmbeddedRedis

    server = EmbeddedRedis(stores_home)
    run_now(server.start())
    yield server
    run_now(server.stop())


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """That Redis, emptied for this test."""
    from redis import Redis

    with Redis.from_url(redis_server.url()) as client:
        client.flushall()
    return redis_server.url()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine() -> AsyncIterator[EngineSpec]:
    """The real engine with the demo model: one that runs (WEIGHBRIDGE_TEST_ENGINE_SOCKET) or one of our own."""
    from engines.local.environment import install
    from engines.local.launch import EngineSpec
    from engines.local.process import EngineProcess

    home = Path(tempfile.mkdtemp(prefix="wb-engine-"))
    running = os.environ.get("WEIGHBRIDGE_TEST_ENGINE_SOCKET")
    root = Path(os.environ.get("WEIGHBRIDGE_HOME", "var")).resolve()
    try:
        if running:
            yield EngineSpec(python=Path("-"), socket=Path(running), cache=home, log=home / "log")
            return
        made = await install(root / "engine-venv", lambda line: print(f"engine: {line}"))
        spec = EngineSpec(
            python=made.python,
            socket=home / "engine.sock",
            cache=root / "engine-cache",
            log=home / "engine.log",
        )
        process = EngineProcess(spec)
        await process.start()
        try:
            await process.wait_ready(240)
            yield spec
        finally:
            await asyncio.shield(process.stop())
    finally:
        shutil.rmtree(home, ignore_errors=True)
