"""Starts the gateway's children by forking them from a process that has imported everything (`cradle`).

A child that is started again imports nothing. Where the cradle itself is gone, its children go
with it, as they would with the supervisor, and the next start makes a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from gateway.embedded.process import Child, alive, spawn
from gateway.supervise.cradle import LARGEST_MESSAGE, Birth, Told


class CannotBear(RuntimeError):
    """A child could not be started; the text says why."""


class Nursery:
    """One cradle and its children. `start` may be called early, so that its imports run beside other things."""

    def __init__(self, log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        self._environment = dict(environment)
        self._process: Child | None = None
        self._link: socket.socket | None = None
        self._lock = threading.Lock()
        self._ended: dict[int, int] = {}

    def start(self) -> None:
        """Start the cradle if none runs. From the main thread only: it dies with the thread that started it."""
        if self._process is not None and self._process.running:
            return
        self._drop()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = spawn(
                "cradle",
                [sys.executable, "-m", "gateway.supervise.cradle", str(theirs.fileno())],
                log=self._log,
                death_signal=signal.SIGKILL,
                cwd=Path.cwd(),
                env=self._environment,
                pass_fds=(theirs.fileno(),),
            )
        self._link = ours

    async def bear(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        log: Path,
        death_signal: signal.Signals,
        cwd: Path,
        env: Mapping[str, str],
        pass_fds: Sequence[int] = (),
    ) -> Child:
        """Start `weighbridge` with these arguments in a session of its own; paths are absolute. Raises CannotBear."""
        self.start()
        log.parent.mkdir(parents=True, exist_ok=True)
        birth = Birth(
            list(arguments),
            list(pass_fds),
            str(log),
            str(cwd),
            dict(env),
            int(death_signal),
        )
        told = await asyncio.to_thread(self._ask, birth)
        if told.problem:
            raise CannotBear(f"{name} could not be started: {told.problem}")
        return Child(name, _Born(self, told.pid))

    async def stop(self) -> None:
        """End the cradle, after its children."""
        if self._process is not None:
            self._drop()
            await self._process.stop(signal.SIGTERM, 5.0)
            self._process = None

    def status(self, pid: int, *, wait: bool) -> int | None:
        """How a child ended, negative for a signal; None while it runs."""
        # Whoever holds the lock reads what comes for all.
        if self._lock.acquire(blocking=wait):
            try:
                while pid not in self._ended and self._hear(wait=wait) is not None:
                    pass
            finally:
                self._lock.release()
        if pid not in self._ended and self._link is None and not alive(pid):
            self._ended[pid] = -int(signal.SIGKILL)
        return self._ended.get(pid)

    def _ask(self, birth: Birth) -> Told:
        with self._lock:
            if self._link is None:
                raise CannotBear("the process that children are forked from has ended")
            try:
                socket.send_fds(self._link, [msgspec.json.encode(birth)], birth.descriptors)
            except OSError as exc:
                raise CannotBear(f"the process that children are forked from has ended: {exc}") from exc
            while True:
                told = self._hear(wait=True)
                if told is None:
                    raise CannotBear(f"the process that children are forked from has ended; see {self._log}")
                if told.status is None:
                    return told

    def _hear(self, *, wait: bool) -> Told | None:
        """The next message, noted if a child has ended; None where there is none, or nobody to send one."""
        if self._link is None or not select.select([self._link], [], [], None if wait else 0)[0]:
            return None
        try:
            message = self._link.recv(LARGEST_MESSAGE)
        except OSError:
            message = b""
        if not message:
            self._link.close()
            self._link = None
            return None
        told = msgspec.json.decode(message, type=Told)
        if told.status is not None:
            self._ended[told.pid] = told.status
        return told

    def _drop(self) -> None:
        with self._lock:
            if self._link is not None:
                self._link.close()
                self._link = None


class _Born:
    """What a Child needs to know of its process, which is another's child."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self.pid = pid
        self._nursery = nursery

    def poll(self) -> int | None:
        return self._nursery.status(self.pid, wait=False)

    def wait(self) -> int:
        status = self._nursery.status(self.pid, wait=True)
        # Without a cradle nobody says how it ended, only that it did.
        return -int(signal.SIGKILL) if status is None else status

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
