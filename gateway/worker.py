"""One gateway worker: builds every part once, serves the sockets it was given, and lets go in order.

On SIGTERM the listener closes at once, running requests get 30 s, what is left is cut and settled; then the counters
get what they are owed, and the spool is closed last, so that nothing settled is missing from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import hashlib
import hmac
import json
import logging
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import uvicorn
import uvloop

from engines.http1.transport import Http1Transport
from engines.transport import Transport
from gateway.app import Front, create_app
from gateway.counters.levels import CounterLevels
from gateway.counters.rebuild import Rebuild
from gateway.counters.reservations import Reservations
from gateway.engine_watch import EngineWatch
from gateway.http.admin.access import ControlPlane
from gateway.http.connection import Connection, sweep
from gateway.http.hot_calls import HotCalls
from gateway.http.operations import Part
from gateway.http.plane import DataPlane
from gateway.pipeline.line import Line
from gateway.pipeline.revocation import Revocations
from gateway.security.jwks import fetch
from gateway.security.keys import Peppers
from gateway.security.sealing import Sealing
from gateway.security.secrets import Purpose, load_master_key
from gateway.security.sessions import Sessions
from gateway.security.tokens import TokenVerifier
from gateway.settings import Settings
from gateway.spool.writer import SpoolWriter
from gateway.store import database
from gateway.store.callers import Callers
from gateway.store.catalog import FollowedCatalog
from gateway.store.changes import Configuration
from gateway.store.keys import StoredKeys
from gateway.store.sums import PostgresSums
from gateway.telemetry import FLUSH_SECONDS, Telemetry
from gateway.trail import RefusalTrail
from policies.catalog import Endpoint

DRAIN_SECONDS = 30.0
log = logging.getLogger(__name__)


def run(settings: Settings, index: int, fd: int, admin_fd: int | None = None) -> int:
    """Serve until asked to stop; the exit status."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, index, fd, admin_fd))
    return 0


async def serve(settings: Settings, index: int, fd: int, admin_fd: int | None = None) -> None:
    """Build the parts, serve, and let go of them in order."""
    if settings.database_url is None or settings.redis_url is None:
        raise ValueError(
            "a worker needs WEIGHBRIDGE_DATABASE_URL and WEIGHBRIDGE_REDIS_URL; 'weighbridge up' sets them"
        )
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    master = load_master_key(settings.secret_file)
    peppers = Peppers(master.derive_all(Purpose.API_KEY_PEPPER))
    telemetry = Telemetry(settings.home / "run" / "metrics")
    async with contextlib.AsyncExitStack() as parts:
        spool = SpoolWriter(settings.spool_dir, cap_bytes=settings.spool_max_mb << 20)
        parts.callback(spool.close)
        engine = database.engine(
            settings.database_url, application_name=f"weighbridge-worker-{index}", size=4
        )
        parts.push_async_callback(engine.dispose)
        catalog = FollowedCatalog(settings.database_url)
        keys = StoredKeys(engine, peppers, catalog)
        configuration = Configuration(engine, master.derive(Purpose.AUDIT_CHAIN))
        sealing = Sealing(master.derive_all(Purpose.CREDENTIALS))
        sessions = Sessions(master.derive_all(Purpose.SESSIONS), time.time)
        verifier = TokenVerifier(sealing, fetch=fetch, clock=time.time, monotonic=time.monotonic)
        callers = Callers(keys, verifier, sessions, catalog, configuration, clock=time.time)
        await catalog.start()
        parts.push_async_callback(catalog.stop)
        keys.start()
        parts.push_async_callback(keys.stop)
        parts.push_async_callback(verifier.close)
        reservations = await Reservations.connect(
            settings.redis_url,
            str(spool.worker_id),
            # 20 ms is enough on a machine of one's own; beside an engine that saturates its cores Redis waits longer.
            timeout_seconds=0.05,
            opener=Rebuild(settings.redis_url, PostgresSums(settings.database_url), lambda: catalog.snapshot),
        )
        parts.push_async_callback(reservations.close)
        levels = CounterLevels(settings.redis_url)
        parts.push_async_callback(levels.close)
        engines = EngineWatch(settings.engine_url, settings.home / "run", transport=_client(settings))
        await engines.start()
        parts.push_async_callback(engines.stop)
        salt_key = master.derive(Purpose.CACHE_SALT)

        # Kept for those who call often: it never changes, and each making of it takes 1.8 us.
        @functools.lru_cache(maxsize=4096)
        def cache_salt(subject: str) -> str:
            return hmac.digest(salt_key, subject.encode(), hashlib.sha256).hex()[:32]

        trail = RefusalTrail(telemetry, spool)
        line = Line(
            keys=callers,
            catalog=catalog,
            reservations=reservations,
            spool=spool,
            engines=engines,
            observer=telemetry,
            trail=trail,
            cache_salt=cache_salt,
            draw=random.random,
            monotonic_ns=time.monotonic_ns,
            wall_ms=lambda: time.time_ns() // 1_000_000,
            batch_percent=settings.batch_percent,
        )
        plane = DataPlane(line)
        revocations = Revocations(line, plane.exchanges)
        catalog.subscribe(revocations.changed)

        def ready(endpoint: Endpoint) -> bool:
            return any(engines.unfit(entity) is None for entity in endpoint.entities)

        def health() -> list[Part]:
            standing = reservations.standing
            return [
                Part(
                    "configuration",
                    None if catalog.latest is not None else "PostgreSQL was never reached",
                    required=True,
                ),
                Part("postgresql", _away(catalog.confirmed_seconds_ago), required=False),
                Part("redis", None if standing.usable else f"away: {standing.reason}", required=False),
                Part("spool", None if spool.admits() else "full: new work is refused", required=True),
                Part("engine", engines.local_reason, required=settings.engine_url is not None),
            ]

        front = Front(
            plane,
            ControlPlane(
                callers, catalog, configuration, peppers, sealing, sessions, levels, settings.webhook_hosts
            ),
            ready,
            health,
            telemetry.page,
        )
        servers = [_server(HotCalls(create_app(front, admin=admin_fd is None), plane))]
        sockets = [socket.socket(fileno=fd)]
        if admin_fd is not None:
            servers.append(_server(create_app(front, data=False)))
            sockets.append(socket.socket(fileno=admin_fd))
        # What was built lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        chores = [
            asyncio.create_task(sweep(lambda each=each: each.server_state.connections)) for each in servers
        ]
        chores.append(asyncio.create_task(_report(telemetry, trail, health, settings.spool_dir)))
        chores.append(asyncio.create_task(revocations.watch()))
        serving = [
            asyncio.create_task(each.serve([sock])) for each, sock in zip(servers, sockets, strict=True)
        ]
        waiting = asyncio.create_task(asked.wait())
        await asyncio.wait([waiting, *serving], return_when=asyncio.FIRST_COMPLETED)
        for each in servers:
            for listener in each.servers:
                listener.close()
            # An idle connection ends now, a busy one with its answer: nobody's next call meets a worker that leaves.
            for connection in list(each.server_state.connections):
                connection.shutdown()
        await plane.drain(DRAIN_SECONDS)
        for each in servers:
            each.should_exit = True
        await asyncio.gather(*serving, return_exceptions=True)
        for each in [*chores, waiting]:
            each.cancel()
        trail.tick(last=True)
        telemetry.flush()


def _client(settings: Settings) -> Callable[[str], Transport]:
    if settings.upstream_client == "http1":
        return Http1Transport
    # Only where it is asked for: aiohttp takes memory and start-up time that nobody else needs.
    from engines.aiohttp_client import AiohttpTransport

    return AiohttpTransport


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: the worker decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def _server(app: object) -> _Server:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=Connection,
        ws="none",
        loop="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
        proxy_headers=False,
    )
    return _Server(config)


async def _report(
    telemetry: Telemetry, trail: RefusalTrail, health: Callable[[], list[Part]], spool_dir: Path
) -> None:
    while True:
        await asyncio.sleep(FLUSH_SECONDS)
        trail.tick()
        # The drainer has no page of its own: what it says of itself is shown with what workers count.
        with contextlib.suppress(OSError, ValueError):
            told = json.loads((spool_dir / "drainer.json").read_bytes())
            for name in ("open_requests", "quarantined", "webhooks_given_up"):
                telemetry.state(name, float(told.get(name, 0)))
        for part in health():
            telemetry.state(part.name, 1.0 if part.fault is None else 0.0)
        telemetry.flush()


def _away(confirmed_seconds_ago: float | None) -> str | None:
    if confirmed_seconds_ago is None:
        return "never reached"
    return (
        None
        if confirmed_seconds_ago < 5.0
        else f"not reached for {confirmed_seconds_ago:.0f} s; known keys and configuration are used"
    )
