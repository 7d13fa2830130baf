"""A worker's standing with Redis: whether counts may be taken there, in which epoch, and at what time.

Never trusted by habit: each connect compares the server's run id with the epoch's, each script compares the epoch,
and five failures in a row open the breaker until a heartbeat is answered in time again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import hiredis
import msgspec

from engines.beats import beat
from gateway.counters.address import RedisAddress
from gateway.counters.beat import Beat
from gateway.counters.connection import Connection, RedisAway
from gateway.counters.keys import Keys
from gateway.counters.lua import Script, Scripts, command

_log = logging.getLogger(__name__)
_unpack = msgspec.msgpack.Decoder().decode

BEAT_SECONDS = 1.0
PROBE_SECONDS = 0.5
FAILURES_TO_OPEN = 5
GIVE_UP_SECONDS = 10.0
"""A connection on which nothing came back for so long is opened anew."""


class Opener(Protocol):
    """Brings the counters back from the ledger before a new epoch is opened."""

    async def rebuild(self, link: Link, run_id: str) -> str:
        """Write the base sums, open an epoch and return it (or the one that another worker opened meanwhile)."""
        ...


class FirstStart:
    """Opens an epoch on a Redis that has nothing to remember: where no ledger stands behind it."""

    async def rebuild(self, link: Link, run_id: str) -> str:
        """Open an empty epoch."""
        return await link.open_epoch(link.new_epoch(run_id))


@dataclass(frozen=True, slots=True)
class Standing:
    """What readiness and metrics show."""

    usable: bool
    reason: str
    """Empty while usable."""
    epoch: str
    live_workers: int
    breaker_open: bool
    lost: int
    """How often the counters were found lost."""


class Link:
    """Owns the connection; `usable` says whether the scripts may decide."""

    def __init__(
        self,
        address: RedisAddress,
        keys: Keys,
        worker_id: str,
        *,
        opener: Opener,
        adopt: Callable[[str, str], Awaitable[int]],
        returned: Callable[[], None],
        clock: Callable[[], float] = time.time,
        timeout_seconds: float = 0.020,
    ) -> None:
        """`adopt(old, new)` runs before a new epoch is used, `returned` when the link is usable again, and at each beat.

        What `adopt` gives is `cut` from then on.
        """
        self.keys = keys
        self.worker_id = worker_id
        self.scripts = Scripts.load()
        self._opener = opener
        self._adopt = adopt
        self._returned = returned
        self._clock = clock
        self._offset_ms = 0.0
        self.connection = Connection(
            address,
            self.scripts.all,
            timeout_seconds=timeout_seconds,
            on_ready=self._ready,
            on_lost=self._broken,
        )
        self.epoch = ""
        self.cut = 0
        """This worker's settlements up to this number were in the ledger's sums when the epoch began, no later one was."""
        self.usable = False
        self.live_workers = 1
        self.lost_count = 0
        self._failures = 0
        self._open = False
        self._entering: asyncio.Task[None] | None = None
        self._beating: asyncio.Task[None] | None = None
        self._beat: Beat | None = None
        self._beat_call = self._beat_bytes(worker_id)
        self._first = asyncio.Event()
        self._stopping = False
        self._said = ""

    def start(self) -> None:
        """Connect, and beat from now on."""
        self.connection.start()
        self._beating = asyncio.create_task(self._keep_beating(), name="redis-heartbeat")

    async def wait_usable(self, seconds: float) -> bool:
        """Wait until the link is usable for the first time; False when it did not come to that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._first.wait()
        return self.usable

    async def stop(self) -> None:
        """Leave: this worker's counts stop counting at once."""
        self._stopping = True
        for task in (self._beating, self._entering):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self.connection.ready and not self._open:
            with contextlib.suppress(RedisAway, hiredis.ReplyError):
                await self.connection.ask(command(b"HDEL", self.keys.live, self.worker_id.encode()))
        self.usable = False
        await self.connection.stop()

    def now_ms(self) -> int:
        """Redis' time, as far as this worker knows it; its own clock until it has been told."""
        return int(self._clock() * 1000 + self._offset_ms)

    def told_time(self, redis_ms: int) -> None:
        """A reply carried Redis' time."""
        offset = redis_ms - self._clock() * 1000
        # Replies are a little old when read; only a real difference is taken over.
        if abs(offset - self._offset_ms) > 50:
            self._offset_ms = offset

    def succeeded(self, redis_ms: int) -> None:
        """A reply came in time, and carried Redis' time."""
        self._failures = 0
        if abs(redis_ms - self._clock() * 1000 - self._offset_ms) > 50:
            self.told_time(redis_ms)

    def failed(self) -> None:
        """No reply in time, or an error instead of one."""
        self._failures += 1
        if self._failures >= FAILURES_TO_OPEN and not self._open:
            self._open = True
            self.usable = False
            _log.error(
                "Redis failed %d times in a row; limits follow their modes until it answers", self._failures
            )

    def lost(self) -> None:
        """A script found another epoch than ours, or none."""
        if self.epoch and self.usable:
            self.lost_count += 1
            _log.error("The counters in Redis are lost; limits follow their modes until they are rebuilt")
        self.usable = False
        self._enter()

    def standing(self) -> Standing:
        """For readiness and metrics."""
        reason = ""
        if not self.usable:
            if not self.connection.ready:
                reason = "no connection to Redis"
            elif self._open:
                reason = "Redis does not answer in time"
            else:
                reason = "the counters are being rebuilt"
        return Standing(self.usable, reason, self.epoch, self.live_workers, self._open, self.lost_count)

    async def call(self, script: Script, keys: list[bytes], arguments: list[bytes]) -> Any:
        """Run a script off the hot path; raises RedisAway or the error that Redis replied."""
        data = script.call(keys, arguments)
        try:
            return await self.connection.ask(data)
        except hiredis.ReplyError as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
            return await self.connection.ask(script.spelled_out(data))

    def new_epoch(self, run_id: str) -> str:
        """A name for an epoch of this server that begins now."""
        return f"{run_id}.{self.now_ms()}.{secrets.token_hex(6)}"

    async def open_epoch(self, name: str, token: bytes = b"") -> str:
        """Open an epoch; whoever comes second gets the first one's. `token` is that of the rebuild that filled it.

        Raises RedisAway where that rebuild is not the one any more.
        """
        keys = [self.keys.epoch, self.keys.sequence, self.keys.rebuild]
        prefix, first = f"{name.partition('.')[0]}.", b"%d" % (self.now_ms() * 1000)
        arguments = [name.encode(), prefix.encode(), first, token]
        held: bytes = await self.call(self.scripts.open, keys, arguments)
        if not held:
            raise RedisAway("the counters were lost again while they were rebuilt")
        return held.decode()

    # private

    def _beat_bytes(self, worker: str) -> bytes:
        return self.scripts.beat.call(
            [self.keys.live, self.keys.epoch, self.keys.sequence], [worker.encode()]
        )

    def _ready(self, run_id: str) -> None:
        self._failures = 0
        self._open = False
        self._beat = None
        self._enter()

    def _broken(self) -> None:
        self.usable = False

    def _enter(self) -> None:
        if self._stopping or not self.connection.ready:
            return
        if self._entering is None or self._entering.done():
            self._entering = asyncio.create_task(self._establish(), name="redis-epoch")

    async def _establish(self) -> None:
        run_id = self.connection.run_id
        try:
            keys = [self.keys.live, self.keys.epoch, self.keys.sequence]
            now, epoch, live = _unpack(await self.call(self.scripts.beat, keys, [self.worker_id.encode()]))
            self._offset_ms = now - self._clock() * 1000
            self.live_workers = max(1, live)
            if not epoch.startswith(f"{run_id}."):
                epoch = await self._opener.rebuild(self, run_id)
            if epoch != self.epoch:
                cut = await self._adopt(self.epoch, epoch)
                self.epoch, self.cut = epoch, cut
        except (RedisAway, hiredis.ReplyError) as error:
            if str(error) != self._said:
                self._said = str(error)
                _log.warning("The counters in Redis cannot be used yet: %s", error)
            return
        if run_id == self.connection.run_id and self.connection.ready and not self._open:
            self._became_usable()

    def _became_usable(self) -> None:
        self.usable = True
        self._said = ""
        self._first.set()
        self._returned()

    async def _keep_beating(self) -> None:
        while True:
            await beat(BEAT_SECONDS if self.usable else PROBE_SECONDS)
            if not self.connection.ready:
                continue
            loop = asyncio.get_running_loop()
            if self._beat is None:
                self._beat = Beat(self.beaten, self.failed, loop.time())
                self.connection.send(self._beat_call, self._beat)
            elif loop.time() - self._beat.sent > GIVE_UP_SECONDS:
                self.connection.drop()

    def beaten(self, beat: Beat, reply: Any) -> None:
        """The heartbeat's answer, in time or late; None when the connection is gone."""
        if beat is not self._beat:
            return
        self._beat = None
        if not isinstance(reply, bytes):
            if isinstance(reply, hiredis.ReplyError):
                # The scripts may have been flushed: the next round begins by calling with the text.
                self.usable = False
                self._enter()
            return
        now, epoch, live = _unpack(reply)
        self.live_workers = max(1, live)
        if not beat.overdue:
            self.told_time(now)
        if not epoch or epoch != self.epoch:
            self.lost()
            return
        if beat.overdue:
            # It is back, but was it in time? Ask at once rather than at the next turn.
            self._beat = Beat(self.beaten, self.failed, asyncio.get_running_loop().time())
            self.connection.send(self._beat_call, self._beat)
            return
        self._failures = 0
        self._open = False
        if self.usable:
            # What was decided here for single answers that came late.
            self._returned()
        elif self._entering is None or self._entering.done():
            self._became_usable()


__all__ = ["FirstStart", "Link", "Opener", "Standing"]
