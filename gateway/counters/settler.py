"""The drainer's way to settle for a worker that died: the same script, on a connection of the drainer's own.

Raises while Redis cannot take it, so that the drainer tries again. What no longer counts is passed over in peace.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import hiredis
from msgspec.structs import replace

from gateway.counters.address import RedisAddress
from gateway.counters.connection import Connection, RedisAway
from gateway.counters.corrections import corrections
from gateway.counters.frames import LOST, Entry, entries_of, held_of
from gateway.counters.keys import Keys
from gateway.counters.lua import Scripts, command
from gateway.counters.taps import CLAIM, lasts
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
        spool_id: str = "",
        number: int = 0,
    ) -> None:
        """Correct what the request was charged; a second time changes nothing. Raises RedisAway to be tried again.

        `granted_output` is not needed: each charge says what it took. `number` is that of the settlement in the
        spool `spool_id`, or EVERYTHING where the spool ended without one.
        """
        if not charges:
            return
        epoch = await self._epoch()
        name = epoch.decode()
        held = await self._ask(command(b"HGET", self._keys.holds(name, worker_id), self._memory(request_id)))
        if held:
            charges = _as_held(charges, held)
        else:
            cut = await self._ask(command(b"HGET", self._keys.cuts(name), spool_id.encode()))
            if 0 < number <= int(cut or 0):
                # The sums that this epoch began with have it.
                return
            charges = _as_never_held(charges, charged_here=_made_at(request_id) > _opened_at(name))
        keys, entries = corrections(charges, prompt_tokens, completion_tokens, cost_nano_usd)
        if entries or held:
            await self._correct(epoch, worker_id, request_id, b"4" if held else b"0", keys, entries)

    async def unsettled(self, worker_id: str) -> Sequence[str]:
        """The requests of a worker of which Redis still holds something; raises RedisAway."""
        epoch = await self._epoch()
        prefix = self._keys.memory_prefix
        found: Any = await self._ask(command(b"HKEYS", self._keys.holds(epoch.decode(), worker_id)))
        return [each.removeprefix(prefix).decode() for each in found or ()]

    async def release(self, *, worker_id: str, request_id: str) -> None:
        """Give all of it back that was taken for a request that never began; once. Raises RedisAway."""
        epoch = await self._epoch()
        held = await self._ask(
            command(b"HGET", self._keys.holds(epoch.decode(), worker_id), self._memory(request_id))
        )
        if held:
            taken = held_of(held)
            entries = [(kind, at, window_ms, -amount) for _, (kind, at, window_ms, amount) in taken]
            await self._correct(epoch, worker_id, request_id, b"4", [key for key, _ in taken], entries)

    def _memory(self, request_id: str) -> bytes:
        return self._keys.memory_prefix + request_id.encode()

    async def _epoch(self) -> bytes:
        epoch = await self._ask(command(b"GET", self._keys.epoch))
        if not epoch:
            raise RedisAway("the counters in Redis are being rebuilt")
        return epoch

    async def _correct(
        self,
        epoch: bytes,
        worker_id: str,
        request_id: str,
        mode: bytes,
        keys: Sequence[str],
        entries: Sequence[Entry],
    ) -> None:
        script = self._scripts.settle
        holds = self._keys.holds(epoch.decode(), worker_id)
        names = [self._keys.epoch, holds, *(each.encode() for each in keys), self._memory(request_id)]
        call = script.call(names, [epoch, worker_id.encode(), mode, entries_of(entries)])
        try:
            reply = await self._ask(call)
        except RedisAway as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
            reply = await self._ask(script.spelled_out(call))
        if not reply or reply[0] == LOST:
            raise RedisAway("the counters in Redis are being rebuilt")

    async def _ask(self, call: bytes) -> bytes | None:
        if self._connection is None or not self._connection.ready:
            raise RedisAway("there is no connection to Redis")
        try:
            return await self._connection.ask(call)
        except hiredis.ReplyError as error:
            raise RedisAway(str(error)) from error


def _as_held(charges: Sequence[Charge], held: bytes) -> list[Charge]:
    """The charges as Redis has them: also of a top-up that was granted and never written down."""
    known = {each.key: each for each in charges}
    taken = [
        replace(known[key], position=at, fixed=amount)
        for key, (kind, at, _, amount) in held_of(held)
        if key in known and kind != CLAIM
    ]
    return [*(each for each in charges if each.kind in ("n", "i")), *taken]


def _as_never_held(charges: Sequence[Charge], *, charged_here: bool) -> list[Charge]:
    """The charges where no hold is kept: what lasts was settled before, or is not in this epoch's counters at all.

    The script knows whether it was settled. Short windows keep no hold, and are gone with the epoch that was charged.
    """
    return [
        replace(each, fixed=0) if lasts(each.kind, each.window_ms) and each.kind != "i" else each
        for each in charges
        if charged_here or each.kind in ("p", "i")
    ]


def _made_at(request_id: str) -> int:
    """When a UUIDv7 was made, in Unix ms."""
    return int(request_id.replace("-", "")[:12], 16)


def _opened_at(epoch: str) -> int:
    """When an epoch was opened, in Redis' time."""
    return int(epoch.split(".")[1])
