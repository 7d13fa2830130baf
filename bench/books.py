"""Whether the books balance: ledger against calls, ledger against the upstream's own count, nothing left open.

A benchmark of a gateway that loses or invents a row would measure nothing; every check here must hold.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from dataclasses import dataclass
from typing import Any

import asyncpg
from redis import Redis

from gateway.store import database

DRAIN_SECONDS = 60.0
SETTLE_SECONDS = 5.0


class Unbalanced(RuntimeError):
    """The books do not balance; the text says which and by how much."""


@dataclass(frozen=True, slots=True)
class Emitted:
    """The upstream's own count."""

    requests: int
    prompt_tokens: int
    completion_tokens: int


class Oracle:
    """The scriptable upstream's counts."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/oracle"

    def forget(self) -> None:
        """Begin to count anew."""
        self._ask("/reset", method="POST")

    def counted(self) -> Emitted:
        """What it has answered since."""
        summary = self._ask("/summary")
        if summary["running"]:
            raise Unbalanced(
                f"{summary['running']} calls still run upstream after their clients were answered"
            )
        return Emitted(summary["requests"], summary["prompt_tokens"], summary["emitted"])

    def _ask(self, path: str, method: str = "GET") -> Any:
        request = urllib.request.Request(
            self._url + path, method=method, data=b"{}" if method == "POST" else None
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


class Books:
    """What the ledger and the counters say; calls are noted as they are made."""

    def __init__(self, connection: asyncpg.Connection, redis_url: str) -> None:
        self._connection = connection
        self._redis_url = redis_url
        self._calls = self._prompt = self._completion = 0

    @classmethod
    async def open(cls, database_url: str, redis_url: str) -> Books:
        """Connect."""
        connection = await database.connect(database_url, application_name="weighbridge-bench")
        return cls(connection, redis_url)

    async def close(self) -> None:
        """Disconnect."""
        await self._connection.close()

    def note(self, calls: int, emitted: Emitted) -> None:
        """Calls were answered, and this is what the upstream says of them."""
        if emitted.requests != calls:
            raise Unbalanced(f"{calls} calls were answered, the upstream had {emitted.requests}")
        self._calls += calls
        self._prompt += emitted.prompt_tokens
        self._completion += emitted.completion_tokens

    async def drained(self, more: int) -> None:
        """Wait until `more` calls than noted are in the ledger, and not one too many. Cheap: reads the daily sums."""
        wanted = self._calls + more
        deadline = time.monotonic() + DRAIN_SECONDS
        while True:
            found = await self._connection.fetchval(
                "SELECT coalesce(sum(requests), 0) FROM gateway.usage_day"
            )
            if found == wanted:
                return
            if found > wanted or time.monotonic() > deadline:
                raise Unbalanced(f"the ledger has {found} requests where {wanted} were answered")
            await asyncio.sleep(0.05)

    async def check(self) -> dict[str, int]:
        """Every row, token and reservation; raises Unbalanced. What was checked, for the report."""
        row = await self._connection.fetchrow(
            """
            SELECT count(*) AS requests, count(*) FILTER (WHERE status <> 'ok') AS not_ok,
                   count(*) FILTER (WHERE usage_source <> 'reported') AS not_reported,
                   coalesce(sum(fresh_input + cache_read + cache_write), 0)::int8 AS prompt,
                   coalesce(sum(output + reasoning), 0)::int8 AS completion,
                   coalesce(sum(cost_nano_usd), 0)::int8 AS cost
            FROM gateway.requests
            """
        )
        said = {
            "rows in the ledger": (row["requests"], self._calls),
            "rows that did not end well": (row["not_ok"], 0),
            "rows whose usage is not the upstream's": (row["not_reported"], 0),
            "prompt tokens": (row["prompt"], self._prompt),
            "completion tokens": (row["completion"], self._completion),
        }
        for what, (found, wanted) in said.items():
            if found != wanted:
                raise Unbalanced(f"{what}: {found:,} where {wanted:,} is right")
        open_now, spent = await self._counters(row["cost"])
        if open_now:
            raise Unbalanced(f"{open_now} reservations are still open")
        if spent != row["cost"]:
            raise Unbalanced(f"the budgets' counters say {spent:,} nano-dollars, the ledger {row['cost']:,}")
        return {
            "calls": self._calls,
            "prompt_tokens": self._prompt,
            "completion_tokens": self._completion,
            "cost_nano_usd": row["cost"],
            "open_reservations": 0,
        }

    async def _counters(self, cost: int) -> tuple[int, int]:
        """(open reservations, money counted), once they have settled or SETTLE_SECONDS have passed."""
        deadline = time.monotonic() + SETTLE_SECONDS
        with Redis.from_url(self._redis_url) as redis:
            while True:
                running = sum(
                    int(value) for key in redis.scan_iter("{*}:n:*", count=5000) for value in redis.hvals(key)
                )
                spent = sum(int(redis.hget(key, "t") or 0) for key in redis.scan_iter("{*}:p:*", count=5000))
                if (not running and spent == cost) or time.monotonic() > deadline:
                    return running, spent
                await asyncio.sleep(0.2)
