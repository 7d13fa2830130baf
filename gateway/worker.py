"""One gateway worker: builds every part once, serves the sockets it was given, and lets go in order.

On SIGTERM the listener closes at once, calls on their way get a second and running requests 30 s, what is left is cut and settled; then the counters
get what they are owed, and the spool is closed last, so that nothing settled is missing from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import socket
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from engines.beats import beat
from engines.experts import ExpertLoad
from gateway.adapter_shelf import adapters_of
from gateway.collector import Collector
from gateway.http.acceptor import Acceptor
from gateway.http.connection import Connection, sweep
from gateway.http.door import Door
from gateway.http.entrance import CALLS, Entrance
from gateway.http.gate import Gate
from gateway.http.operations import Operations, Part
from gateway.http.origin import Origins
from gateway.http.plane import DataPlane
from gateway.parts import Parts, asked_to_end, built, run_process
from gateway.pipeline.revocation import Revocations
from gateway.routing.traffic import Traffic
from gateway.settings import Settings
from gateway.share import take_share
from gateway.telemetry import ENDPOINTS_A_TURN, FLUSH_SECONDS, Telemetry
from gateway.trail import RefusalTrail
from policies.catalog import Endpoint

if TYPE_CHECKING:
    from litestar import Litestar

    from gateway.app import Front

ARRIVING_SECONDS = 1.0
"""How long a worker that is to end waits for calls that are on their way."""
_LOOKS = 50
DRAIN_SECONDS = 30.0
log = logging.getLogger(__name__)


def run(settings: Settings, index: int, fd: int, admin_fd: int | None = None) -> int:
    """Serve until asked to stop; the exit status."""
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    take_share(settings, index)
    # A thread beside the event loop gives way after this: with Python's own 5 ms a body of 3.5 MB made half of the loop's turns
    # 3.6 ms late, with 1 ms it is 1.3.
    sys.setswitchinterval(0.001)
    return run_process(lambda: serve(settings, index, fd, admin_fd))


async def serve(settings: Settings, index: int, fd: int, admin_fd: int | None = None) -> None:
    """Build the parts, serve, and let go of them in order."""
    asked = asked_to_end()
    async with built(settings, f"worker-{index}") as parts:
        line, catalog, engines = parts.line, parts.catalog, parts.engines
        reservations, spool = parts.reservations, parts.spool
        telemetry, trail = parts.telemetry, parts.trail
        gate = Gate(
            line.keys,
            late_ms=settings.overload_ms,
            most_calls=settings.max_calls,
            refused=telemetry.refused,
            came_late=telemetry.came_late,
        )
        plane = DataPlane(line, Origins(settings.trusted_proxies), gate)
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
                *(
                    [Part("engine_replicas", engines.missing, required=False)]
                    if engines.replicas[0] > 1
                    else []
                ),
            ]

        @functools.cache
        def front() -> Front:
            return _front(settings, parts, plane, ready)

        def opened(*, data: bool = True, admin: bool = True) -> _Server:
            def rest() -> Litestar:
                from gateway.app import create_app

                return create_app(front(), data=data, admin=admin)

            door = Door(gate, plane, CALLS) if data else None
            return _server(Entrance(plane, operations, rest, data=data), door)

        operations = Operations(health, lambda: telemetry.page() + _verified(settings.home))
        servers = [opened(admin=admin_fd is None)]
        sockets = [socket.socket(fileno=fd)]
        if admin_fd is not None:
            servers.append(opened(data=False))
            sockets.append(socket.socket(fileno=admin_fd))
        collector = Collector(lambda: telemetry.running, lambda: gate.guarded)
        chores = [
            asyncio.create_task(sweep(lambda each=each: each.server_state.connections)) for each in servers
        ]
        chores.append(
            asyncio.create_task(
                _report(
                    telemetry,
                    trail,
                    health,
                    settings.spool_dir,
                    parts.line.traffic,
                    engines.experts,
                    collector,
                )
            )
        )
        chores.append(asyncio.create_task(revocations.watch()))
        chores.append(asyncio.create_task(gate.watch(plane.running)))
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
                if not _expects(connection):
                    connection.shutdown()
        await _arrived(servers)
        for each in servers:
            for connection in list(each.server_state.connections):
                connection.shutdown()
        await plane.drain(DRAIN_SECONDS)
        for each in servers:
            each.leave()
        await asyncio.gather(*serving, return_exceptions=True)
        for each in [*chores, waiting]:
            each.cancel()
        trail.tick(last=True)
        telemetry.flush()


def _expects(connection: object) -> bool:
    """Whether a call is on its way: its client has connected and asked nothing yet, or has begun to."""
    return isinstance(connection, Connection) and bool(connection.waiting_since)


async def _arrived(servers: Sequence[uvicorn.Server]) -> None:
    """Wait a moment for those calls: who is let in is answered."""
    for _ in range(_LOOKS):
        if not any(_expects(connection) for each in servers for connection in each.server_state.connections):
            return
        await asyncio.sleep(ARRIVING_SECONDS / _LOOKS)


def _front(settings: Settings, parts: Parts, plane: DataPlane, ready: Callable[[Endpoint], bool]) -> Front:
    """What the control plane works with; imported with it, by the first request for it."""
    from gateway.app import Front
    from gateway.http.admin.access import ControlPlane

    control = ControlPlane(
        parts.callers,
        parts.catalog,
        parts.configuration(),
        parts.peppers,
        parts.sealing,
        parts.sessions,
        parts.levels,
        settings.webhook_hosts,
        provider_hosts=settings.provider_hosts,
        origins=plane.origins,
        trail=parts.trail,
        adapters=adapters_of(settings),
    )
    return Front(plane, control, ready, parts.line.turns)


def _verified(home: Path) -> bytes:
    """What the last verification left for the page of metrics; nothing before the first one."""
    try:
        return (home / "run" / "verify.prom").read_bytes()
    except OSError:
        return b""


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling (the worker decides when to stop), and with our acceptor."""

    def __init__(self, config: uvicorn.Config, door: Door | None) -> None:
        super().__init__(config)
        self._door = door
        self._leaving = asyncio.Event()

    def leave(self) -> None:
        """Ask it to end."""
        self.should_exit = True
        self._leaving.set()

    async def main_loop(self) -> None:
        # uvicorn's own looks ten times a second whether it is to end, and writes a date that no answer carries.
        await self._leaving.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])

        def connection() -> Connection:
            made = Connection(self.config, self.server_state, self.lifespan.state)
            made.door = self._door
            return made

        self.servers = [Acceptor(each, connection) for each in sockets or []]  # type: ignore[misc]

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def _server(app: object, door: Door | None) -> _Server:
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
    return _Server(config, door)


async def _report(
    telemetry: Telemetry,
    trail: RefusalTrail,
    health: Callable[[], list[Part]],
    spool_dir: Path,
    traffic: Traffic,
    experts: ExpertLoad,
    collector: Collector,
) -> None:
    while True:
        await beat(FLUSH_SECONDS)
        trail.tick()
        # The drainer has no page of its own: what it says of itself is shown with what workers count.
        with contextlib.suppress(OSError, ValueError):
            told = json.loads((spool_dir / "drainer.json").read_bytes())
            for name in ("open_requests", "quarantined", "webhooks_given_up", "usage_told", "usage_dropped"):
                telemetry.state(name, float(told.get(name, 0)))
        for part in health():
            telemetry.state(part.name, 1.0 if part.fault is None else 0.0)
        telemetry.experts(experts.taken())
        telemetry.state("open_circuits", float(traffic.open_circuits))
        telemetry.state("waiting_calls", float(traffic.waiting))
        telemetry.flush(ENDPOINTS_A_TURN)
        collector.turn()


def _away(confirmed_seconds_ago: float | None) -> str | None:
    if confirmed_seconds_ago is None:
        return "never reached"
    return (
        None
        if confirmed_seconds_ago < 5.0
        else f"not reached for {confirmed_seconds_ago:.0f} s; known keys and configuration are used"
    )
