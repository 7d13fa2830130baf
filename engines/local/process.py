"""Start, probe and stop one engine process together with everything it starts.

The engine is a process group of its own that ends with us: it holds the other end of a pipe that only we keep open.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Mapping
from time import monotonic

from engines.local.boundedlog import BoundedLog
from engines.local.launch import EngineSpec, command, environment
from engines.local.numa import stand_in

PROBE_SECONDS = 5.0
STOP_GRACE_SECONDS = 8.0


class EngineDied(Exception):
    """The engine ended by itself; the message is its exit and its own last words."""


class EngineProcess:
    """One run of one engine. Not reusable: a restart is a new instance."""

    def __init__(self, spec: EngineSpec, base_env: Mapping[str, str] | None = None) -> None:
        self.spec = spec
        self._env = environment(spec, os.environ if base_env is None else base_env)
        self._child: Process | None = None
        self._leash: int | None = None
        self._log: BoundedLog | None = None
        self._copying: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The server's process id, which is also its group's."""
        return self._child.pid if self._child else None

    async def start(self) -> None:
        """Start the engine; it is not ready yet."""
        if self.spec.socket:
            self.spec.socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # vLLM does not bind over a socket that an earlier run left behind.
            self.spec.socket.unlink(missing_ok=True)
        self.spec.cache.mkdir(parents=True, exist_ok=True)
        if self.spec.device == "cpu" and (libraries := stand_in(self.spec.cache / "lib")):
            found = self._env.get("LD_LIBRARY_PATH")
            self._env["LD_LIBRARY_PATH"] = f"{libraries}:{found}" if found else str(libraries)
        self._log = BoundedLog(self.spec.log)
        self._log.write(f"-- starting: {shlex.join(command(self.spec))}\n".encode())
        theirs, self._leash = os.pipe()
        try:
            self._child = await asyncio.create_subprocess_exec(
                *command(self.spec),
                env=self._env,
                cwd=self.spec.cache,
                stdin=theirs,
                stdout=PIPE,
                stderr=STDOUT,
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        self._copying = asyncio.create_task(self._copy_output(self._child, self._log))

    async def wait_ready(self, timeout: float) -> None:
        """Return once /health answers; raises EngineDied or TimeoutError."""
        child = self._started()
        until = monotonic() + timeout
        while not await healthy(self.spec):
            if child.returncode is not None:
                raise EngineDied(await self.explain())
            if monotonic() > until:
                raise TimeoutError(f"the engine was not ready after {timeout:.0f} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(child.wait()), 0.25)

    async def wait(self) -> int:
        """Wait until the server process ends."""
        return await self._started().wait()

    async def explain(self) -> str:
        """Say how the process ended, with the line of its output that says most."""
        code = await self._started().wait()
        if self._copying:
            await asyncio.wait((self._copying,), timeout=1.0)
        how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        return f"the engine ended ({how}): {self._log.reason() if self._log else ''} (see {self.spec.log})"

    async def stop(self, grace: float = STOP_GRACE_SECONDS) -> None:
        """End the whole group: ask first, insist after `grace` seconds. Safe to call twice."""
        child = self._child
        if child is None:
            return
        self._signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(child.wait()), grace)
        # Also after a clean end: an engine core may have outlived its server.
        self._signal(signal.SIGKILL)
        await child.wait()
        if self._copying:
            await asyncio.wait((self._copying,), timeout=1.0)
            self._copying.cancel()
        if self._leash is not None:
            os.close(self._leash)
            self._leash = None
        if self._log:
            self._log.close()
        if self.spec.socket:
            self.spec.socket.unlink(missing_ok=True)

    def _started(self) -> Process:
        if self._child is None:
            raise RuntimeError("start() comes first")
        return self._child

    def _signal(self, number: int) -> None:
        if self._child:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, number)

    @staticmethod
    async def _copy_output(child: Process, log: BoundedLog) -> None:
        assert child.stdout is not None
        while True:
            try:
                line = await child.stdout.readuntil(b"\n")
            except asyncio.IncompleteReadError as end:
                if end.partial:
                    log.write(end.partial)
                return
            except asyncio.LimitOverrunError as long:
                line = await child.stdout.readexactly(long.consumed)
            log.write(line)


async def healthy(spec: EngineSpec, timeout: float = PROBE_SECONDS) -> bool:
    """Ask the engine's /health once."""
    try:
        async with asyncio.timeout(timeout):
            if spec.socket:
                reader, writer = await asyncio.open_unix_connection(str(spec.socket))
            else:
                reader, writer = await asyncio.open_connection(spec.host, spec.port)
            try:
                writer.write(b"GET /health HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n")
                return (await reader.readline()).split()[1:2] == [b"200"]
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
