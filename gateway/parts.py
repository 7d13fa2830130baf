"""The parts of a process that calls go through: built once, in order, and let go of in the reverse order.

The spool is closed last, so that nothing settled is missing from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import hmac
import importlib
import logging
import random
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvloop

from engines.http1.transport import Http1Transport
from engines.local.launch import EMBEDDER_NAME
from engines.transport import Transport
from gateway.counters.answers import StoredAnswers
from gateway.counters.levels import CounterLevels
from gateway.counters.rebuild import Rebuild
from gateway.counters.reservations import Reservations
from gateway.counters.shared_traffic import SharedTraffic
from gateway.engine_notes import EMBEDDER_NOTE
from gateway.engine_watch import NO_EMBEDDER, EngineWatch
from gateway.payloads.keeping import Keeping
from gateway.payloads.storing import PayloadStore
from gateway.pipeline.line import Line
from gateway.providers.adapters import ProviderAdapters
from gateway.routing.traffic import Traffic
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
from gateway.store.keys import StoredKeys
from gateway.store.sums import PostgresSums
from gateway.store.turns import StoredTurns
from gateway.telemetry import Telemetry, metrics_folder
from gateway.trail import RefusalTrail
from policies.tokens import Identity, Issuer

if TYPE_CHECKING:
    from gateway.store.changes import Configuration


@dataclass(frozen=True, slots=True)
class Parts:
    """What a process is made of."""

    line: Line
    spool: SpoolWriter
    catalog: FollowedCatalog
    callers: Callers
    configuration: Callable[[], Configuration]
    """Changes the configuration; made when it is first asked for, as few processes do."""
    reservations: Reservations
    engines: EngineWatch
    levels: CounterLevels
    telemetry: Telemetry
    trail: RefusalTrail
    peppers: Peppers
    sealing: Sealing
    sessions: Sessions


@contextlib.asynccontextmanager
async def built(settings: Settings, name: str) -> AsyncGenerator[Parts]:
    """Build everything for the process of that name; raises ValueError where an address is missing."""
    if settings.database_url is None or settings.redis_url is None:
        raise ValueError(
            f"a {name} needs WEIGHBRIDGE_DATABASE_URL and WEIGHBRIDGE_REDIS_URL; 'weighbridge up' sets them"
        )
    master = load_master_key(settings.secret_file)
    peppers = Peppers(master.derive_all(Purpose.API_KEY_PEPPER))
    telemetry = Telemetry(metrics_folder(settings.home))
    async with contextlib.AsyncExitStack() as parts:
        spool = SpoolWriter(settings.spool_dir, cap_bytes=settings.spool_max_mb << 20)
        parts.callback(spool.close)
        connections = database.Connections(settings.database_url, application_name=f"weighbridge-{name}")
        parts.push_async_callback(connections.close)
        catalog = FollowedCatalog(settings.database_url)
        keys = StoredKeys(connections, peppers, catalog)
        chain_key, database_url = master.derive(Purpose.AUDIT_CHAIN), settings.database_url

        @functools.cache
        def configuration() -> Configuration:
            # SQLAlchemy, and all that can be changed: 30 MB that a process which only serves calls has no use for.
            from gateway.store.changes import Configuration

            engine = database.engine(database_url, application_name=f"weighbridge-{name}", size=4)
            parts.push_async_callback(engine.dispose)
            return Configuration(engine, chain_key)

        async def arrive(issuer: Issuer, identity: Identity) -> None:
            arrivals = await asyncio.to_thread(importlib.import_module, "gateway.store.arrivals")
            await arrivals.arrive(configuration(), issuer, identity)

        sealing = Sealing(master.derive_all(Purpose.CREDENTIALS))
        sessions = Sessions(master.derive_all(Purpose.SESSIONS), time.time)
        verifier = TokenVerifier(sealing, fetch=fetch, clock=time.time, monotonic=time.monotonic)
        callers = Callers(keys, verifier, sessions, catalog, arrive, clock=time.time)
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
        providers = ProviderAdapters(
            _client(settings), sealing, hosts=settings.provider_hosts, folder=settings.credentials
        )
        parts.push_async_callback(providers.aclose)
        catalog.subscribe(providers.follow(lambda: catalog.latest))
        embedder = EngineWatch(
            settings.embedder_url,
            settings.home / "run",
            transport=_client(settings),
            note=EMBEDDER_NOTE,
            absent=NO_EMBEDDER,
        )
        engines = EngineWatch(
            settings.engine_url,
            settings.home / "run",
            transport=_client(settings),
            providers=providers,
            beside={EMBEDDER_NAME: embedder},
        )
        await engines.start()
        parts.push_async_callback(engines.stop)
        traffic = Traffic(lambda: time.monotonic_ns() // 1_000_000, random.random)
        # Until the workers have heard of each other.
        traffic.workers = settings.workers
        traffic.gate.alone(settings.workers)

        def provisioned(_: frozenset[str]) -> None:
            # What others charge counts before the first call comes here.
            traffic.gate.follow(catalog.latest.throughput if catalog.latest is not None else None)

        catalog.subscribe(provisioned)
        provisioned(frozenset())
        shared = SharedTraffic(settings.redis_url, str(spool.worker_id), traffic)
        parts.push_async_callback(shared.close)
        following = asyncio.create_task(shared.follow(), name="shared traffic")
        parts.callback(following.cancel)
        salt_key = master.derive(Purpose.CACHE_SALT)

        # Kept for those who call often: it never changes, and each making of it takes 1.8 us, 6 with cold caches.
        @functools.lru_cache(maxsize=32_768)
        def cache_salt(subject: str) -> str:
            return hmac.digest(salt_key, subject.encode(), hashlib.sha256).hex()[:32]

        answers = StoredAnswers(
            settings.redis_url,
            Sealing(master.derive_all(Purpose.STORED_ANSWERS)),
            master.derive(Purpose.STORED_QUESTIONS),
            cap_bytes=settings.cache_max_mb << 20,
            monotonic=time.monotonic,
        )
        parts.push_async_callback(answers.close)
        trail = RefusalTrail(telemetry, spool)
        kept = Keeping(
            telemetry.payload, wall_ms=lambda: time.time_ns() // 1_000_000, monotonic_ns=time.monotonic_ns
        )
        payloads = PayloadStore(settings.database_url, kept)
        payloads.start()
        parts.push_async_callback(payloads.close)
        turns = StoredTurns(connections, Sealing(master.derive_all(Purpose.KEPT_RESPONSES)))
        parts.push_async_callback(turns.close)
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
            traffic=traffic,
            answers=answers,
            batch_percent=settings.batch_percent,
            payloads=kept,
            turns=turns,
        )

        def followed(_: frozenset[str]) -> None:
            if catalog.latest is not None:
                telemetry.follows(catalog.latest.version)

        # Last: whoever reads the number may take it that every part has heard.
        catalog.subscribe(followed)
        followed(frozenset())
        yield Parts(
            line,
            spool,
            catalog,
            callers,
            configuration,
            reservations,
            engines,
            levels,
            telemetry,
            trail,
            peppers,
            sealing,
            sessions,
        )


def asked_to_end() -> asyncio.Event:
    """Set once the process is told to end, by SIGTERM or SIGINT."""
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    return asked


def run_process(work: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run until it ends, on the fast loop, with a log on stderr; the exit status."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work())
    return 0


def _client(settings: Settings) -> Callable[..., Transport]:
    if settings.upstream_client == "http1":
        return Http1Transport
    # Only where it is asked for: aiohttp takes memory and start-up time that nobody else needs.
    from engines.aiohttp_client import AiohttpTransport

    return AiohttpTransport
