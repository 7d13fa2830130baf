"""What is left of limits and budgets right now, read from Redis and never changed by reading.

The same arithmetic as the scripts', over the same keys; with Redis away the answer is None, never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.counters.commands import Commands, pairs
from gateway.counters.connection import RedisAway
from gateway.counters.keys import Keys
from gateway.counters.lua import command
from policies.limits import Draw
from policies.windows import FOREVER_MS, SUB_BUCKETS, Calendar, Rolling, edges

_SECONDS = 1.0
_QUIET_MS = 3_000
"""A worker not heard of for longer holds nothing any more."""
_SLOTS = SUB_BUCKETS + 1
Fields = Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Level:
    """How full one counter is."""

    used: int
    """Used and reserved together."""
    resets_at_ms: int | None
    """When all of it is free again if nothing more is used; None where that is not a matter of time."""


class CounterLevels:
    """Reads counters on a connection of its own, so that nobody's admission waits for it."""

    def __init__(self, redis_url: str, *, deployment: str = "wb") -> None:
        self._keys = Keys(deployment)
        self._redis = Commands(redis_url, seconds=_SECONDS)

    async def close(self) -> None:
        """Disconnect."""
        await self._redis.close()

    async def read(self, draws: Sequence[Draw]) -> list[Level] | None:
        """The level of each draw's counter; None while Redis is away or its counts are being rebuilt."""
        try:
            ((seconds, micros),) = await self._redis.ask(command(b"TIME"))
            now = int(seconds) * 1000 + int(micros) // 1000
            open_, live, *found = await self._redis.ask(
                command(b"EXISTS", self._keys.epoch),
                command(b"HGETALL", self._keys.live),
                *(command(b"HGETALL", self._key(draw, now)) for draw in draws),
            )
        except RedisAway:
            return None
        if not open_:
            return None
        workers = pairs(live)
        return [level_of(draw, pairs(each), workers, now) for draw, each in zip(draws, found, strict=True)]

    def _key(self, draw: Draw, now_ms: int) -> bytes:
        match draw.window:
            case None:
                return self._keys.concurrency(draw.limit_id, draw.subject)
            case Rolling():
                return self._keys.window(draw.limit_id, draw.subject)
            case Calendar() as calendar:
                return self._keys.period(draw.limit_id, draw.subject, edges(calendar, now_ms)[0])


def level_of(draw: Draw, fields: Fields, live: Fields, now_ms: int) -> Level:
    """What a counter's fields say at this moment."""
    match draw.window:
        case None:
            used = sum(
                int(count)
                for worker, count in fields.items()
                if worker in live and now_ms - int(live[worker]) <= _QUIET_MS
            )
            return Level(used, None)
        case Rolling(milliseconds=width):
            return _sliding(fields, width, now_ms)
        case Calendar() as calendar:
            end = edges(calendar, now_ms)[1]
            return Level(int(fields.get(b"t", 0)), None if end >= FOREVER_MS else end)


def _sliding(fields: Fields, width: int, now_ms: int) -> Level:
    if b"h" not in fields:
        return Level(0, None)
    written = int(fields[b"h"])
    oldest = max(written, now_ms * SUB_BUCKETS // width) - SUB_BUCKETS
    inside = {
        bucket: amount
        for bucket in range(max(oldest, written - SUB_BUCKETS), written + 1)
        if (amount := int(fields.get(b"%d" % (bucket % _SLOTS), 0)))
    }
    if not inside:
        return Level(0, None)
    return Level(sum(inside.values()), -(-(max(inside) + _SLOTS) * width // SUB_BUCKETS))
