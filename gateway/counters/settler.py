"""The drainer's way to settle for a worker that died: the same script, on a connection of the drainer's own.

Raises while Redis cannot take it, so that the drainer tries again. What no longer counts is passed over in peace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import hiredis

from gateway.counters.address import RedisAddress
from gateway.counters.connection import Connection, RedisAway
from gateway.counters.corrections import corrections
from gateway.counters.frames import LOST, entries_of
from gateway.counters.keys import Keys
from gateway.counters.lua import Scripts, command
from gateway.counters.outbox import cut_of
from gateway.spool.records import Charge


class CounterSettler:
    """Settles by request, for whichever worker admitted it."""

    def __init__(self, redis_url: str, *, deployment: str = "wb", timeout_seconds: float = 1.0) -> None:
        self._keys = Keys(deployment)
        self._scripts = Scripts.load()
        self._address = RedisAddress.parse(redis_url)
        self._timeout = timeout_seconds
        self._connection: Connection | None = None
        self._ready = asyncio.Event()

    async def start(self) -> None:
        """Connect in the background."""
        self._connection = Connection(
            self._address,
            (self._scripts.settle,),
            timeout_seconds=self._timeout,
            on_ready=lambda run_id: self._ready.set(),
            on_lost=self._ready.clear,
        )
        self._connection.start()

    async def stop(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            await self._connection.stop()

    async def settle(
        self,
        *,
        worker_id: str,
        request_id: str,
        charges: Sequence[Charge],
        granted_output: int = 0,
        prompt_tokens: int,
        completion_tokens: int,
        cost_nano_usd: int,
    ) -> None:
        """Correct what the request was charged; a second time changes nothing. Raises RedisAway to be tried again.

        `granted_output` is not needed: each charge says what it took.
        """
        keys, entries = corrections(charges, prompt_tokens, completion_tokens, cost_nano_usd)
        if not entries:
            return
        if self._connection is None or not self._connection.ready:
            raise RedisAway("there is no connection to Redis")
        connection, script = self._connection, self._scripts.settle
        epoch = await self._ask(connection, command(b"GET", self._keys.epoch))
        if not epoch:
            raise RedisAway("the counters in Redis are being rebuilt")
        if _made_at(request_id) <= cut_of(epoch.decode()):
            # Its charges went with an older epoch, and only workers that live carry theirs over: what it used is
            # in the ledger, or will be at the next rebuild. A correction would take from others.
            return
        memory = self._keys.memory_prefix + request_id.encode()
        names = [self._keys.epoch, *(each.encode() for each in keys), memory]
        call = script.call(names, [epoch, worker_id.encode(), b"0", entries_of(entries)])
        try:
            reply = await self._ask(connection, call)
        except RedisAway as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
            reply = await self._ask(connection, script.spelled_out(call))
        if not reply or reply[0] == LOST:
            raise RedisAway("the counters in Redis are being rebuilt")

    @staticmethod
    async def _ask(connection: Connection, call: bytes) -> bytes | None:
        try:
            return await connection.ask(call)
        except hiredis.ReplyError as error:
            raise RedisAway(str(error)) from error


def _made_at(request_id: str) -> int:
    """When a UUIDv7 was made, in Unix ms."""
    return int(request_id.replace("-", "")[:12], 16)
