"""Every worker has a listening socket of its own, and whoever comes before a worker is there waits and is not turned away."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

from gateway.supervise.listening import reserve

WORKERS = 3
CALLERS = 96


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in probes:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in probes]


def _taken(listening: socket.socket) -> int:
    """How many wait at a socket."""
    listening.setblocking(False)
    count = 0
    while True:
        try:
            listening.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_callers_are_shared_out_among_all_workers_and_none_is_lost_before_they_are_there() -> None:
    [port] = _free_ports(1)
    settings: Any = SimpleNamespace(host="127.0.0.1", port=port, admin_port=None, workers=WORKERS)
    opened = reserve(settings)
    assert len(opened) == WORKERS
    for each in opened:
        each.listen()
    callers = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(CALLERS)]
    try:
        waiting = [_taken(each.main) for each in opened]
    finally:
        for each in (*callers, *opened):
            each.close()
    assert sum(waiting) == CALLERS
    assert all(waiting)


def test_where_administration_has_a_port_of_its_own_every_worker_listens_there_too() -> None:
    port, admin_port = _free_ports(2)
    settings: Any = SimpleNamespace(host="127.0.0.1", port=port, admin_port=admin_port, workers=WORKERS)
    opened = reserve(settings)
    try:
        for each in opened:
            assert each.admin is not None
            assert each.main.getsockname()[1] == port
            assert each.admin.getsockname()[1] == admin_port
            assert each.descriptors == (each.main.fileno(), each.admin.fileno())
    finally:
        for each in opened:
            each.close()
