"""Keep one child alive: start it again when it ends, at once the first time, ever later when it keeps ending."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from gateway.embedded.process import Child

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0
# A child that lived this long had started well: what ended it is news, not the old fault again.
STEADY_SECONDS = 10.0


class Keeper:
    """Starts a child, watches it, starts it again; `release` ends the watch and leaves the child."""

    def __init__(
        self,
        name: str,
        start: Callable[[], Awaitable[Child]],
        changed: Callable[[Keeper], None],
        complain: Callable[[str], None],
        *,
        given_up: int | None = None,
    ) -> None:
        """A child that ends with status `given_up` is not started again."""
        self.name = name
        self.child: Child | None = None
        self.restarts = 0
        self._start = start
        self._changed = changed
        self._complain = complain
        self._given_up = given_up
        self._watch: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Start the child for the first time; its failure to start is the caller's."""
        self.child = await self._start()
        self._changed(self)
        self._watch = asyncio.create_task(self._keep(), name=f"keeper of {self.name}")

    async def release(self) -> None:
        """Stop watching, so that the child may end for good."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
            self._watch = None

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        pause = FIRST_PAUSE
        while True:
            began = loop.time()
            if self.child is not None:
                status = await self.child.wait()
                # What a dead leader leaves in its group would hold its sockets and locks.
                self.child.kill_group()
                if status == self._given_up:
                    self._complain(f"{self.name} says that it cannot run here; it is not started again")
                    return
                if loop.time() - began > STEADY_SECONDS:
                    pause = FIRST_PAUSE
                self._complain(f"{self.name} ended ({_cause(status)}); starting it again")
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
            self.restarts += 1
            try:
                self.child = await self._start()
            except (OSError, RuntimeError) as exc:
                self.child = None
                self._complain(f"{self.name} could not be started: {exc}")
            self._changed(self)


def _cause(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"
