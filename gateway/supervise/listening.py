"""The listening sockets: opened once by the supervisor and inherited by workers.

One socket a worker, so that the kernel shares connections out evenly; the supervisor keeps them open, so that
connections which arrive while a worker restarts wait in its queue and none is lost.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from gateway.settings import Settings
from gateway.supervise.preflight import CannotRun, check_port

_BACKLOG = 2048


@dataclass(frozen=True, slots=True)
class WorkerSockets:
    """What one worker listens on."""

    main: socket.socket
    admin: socket.socket | None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptors to inherit."""
        return tuple(each.fileno() for each in (self.main, self.admin) if each is not None)

    def listen(self) -> None:
        """From here on connections wait for a worker instead of being refused."""
        for each in (self.main, self.admin):
            if each is not None:
                each.listen(_BACKLOG)

    def close(self) -> None:
        """Stop holding them; they are gone when their worker has closed its own too."""
        for each in (self.main, self.admin):
            if each is not None:
                each.close()


def reserve(settings: Settings) -> list[WorkerSockets]:
    """Bind every worker's sockets without listening yet; refuses ports that something else holds."""
    check_port(settings.host, settings.port, "WEIGHBRIDGE_PORT")
    if settings.admin_port is not None:
        check_port(settings.host, settings.admin_port, "WEIGHBRIDGE_ADMIN_PORT")
    return [
        WorkerSockets(
            _bound(settings.host, settings.port),
            None if settings.admin_port is None else _bound(settings.host, settings.admin_port),
        )
        for _ in range(settings.workers)
    ]


def _bound(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        opened.bind(address)
    except OSError as exc:
        opened.close()
        raise CannotRun(f"Port {port} of {host} cannot be opened ({exc.strerror}).") from exc
    return opened
