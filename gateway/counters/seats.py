"""Places that workers share, in Redis: a sorted set for each entity, of who has one and until when, should they not say so again.

Taken before a call and given back behind it. A worker that dies loses its places after ten seconds; with Redis away there are none to take.
"""

from __future__ import annotations

import asyncio
import logging

from gateway.counters.commands import Commands
from gateway.counters.connection import RedisAway
from gateway.counters.lua import command
from gateway.routing.seats import SeatsAway

_KEPT_MS = 10_000
_TAKE = b"""
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""
_KEEP = b"""
local t = redis.call('TIME')
local kept_until = t[1] * 1000 + math.floor(t[2] / 1000) + ARGV[1]
for at, key in ipairs(KEYS) do
  redis.call('ZADD', key, 'XX', kept_until, ARGV[at + 1])
  redis.call('PEXPIRE', key, ARGV[1])
end
"""
log = logging.getLogger(__name__)


class SharedSeats:
    """One worker's hold on them; the port `Seats`."""

    def __init__(self, redis_url: str, worker_id: str, *, deployment: str = "wb") -> None:
        self._redis = Commands(redis_url, seconds=1.0)
        self._prefix = f"{{{deployment}}}:seats:".encode()
        self._worker = worker_id.encode()
        self._number = 0
        self._held: dict[bytes, bytes] = {}
        """The key of each that we have."""
        self._giving: set[asyncio.Task[None]] = set()

    async def take(self, entity_id: str, places: int) -> bytes | None:
        """A place of so many; raises SeatsAway."""
        self._number += 1
        seat, key = b"%b:%d" % (self._worker, self._number), self._prefix + entity_id.encode()
        self._held[seat] = key
        try:
            (taken,) = await self._redis.ask(
                command(b"EVAL", _TAKE, b"1", key, b"%d" % places, seat, b"%d" % _KEPT_MS)
            )
        except RedisAway as away:
            self.give_back(seat)
            raise SeatsAway from away
        except BaseException:
            # Whoever waits no more may have been given one all the same.
            self.give_back(seat)
            raise
        if not taken:
            del self._held[seat]
            return None
        return seat

    def give_back(self, seat: bytes) -> None:
        """The place is free."""
        task = asyncio.get_running_loop().create_task(self._give(self._held.pop(seat), seat))
        self._giving.add(task)
        task.add_done_callback(self._giving.discard)

    async def keep(self) -> None:
        """Say that what we have is still ours; raises RedisAway."""
        if self._held:
            seats, keys = list(self._held), list(self._held.values())
            await self._redis.ask(command(b"EVAL", _KEEP, b"%d" % len(keys), *keys, b"%d" % _KEPT_MS, *seats))

    async def close(self) -> None:
        """Give back what is being given back, and disconnect."""
        if self._giving:
            await asyncio.wait(self._giving, timeout=1.0)
        await self._redis.close()

    async def _give(self, key: bytes, seat: bytes) -> None:
        try:
            await self._redis.ask(command(b"ZREM", key, seat))
        except RedisAway:
            log.debug("a place is free when it is not heard of any more")
