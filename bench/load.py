"""The load generator, a process of its own: orders come as JSON lines on stdin, results go out on stdout.

Every order is bounded in calls and in seconds. An answer that is not a whole 200 counts as failed, and the first few
of those are quoted.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httptools
import uvloop

from bench.open_loop import at, offer_calls

GRACE_SECONDS = 15.0
_ENDS = (b"data: [DONE]\n\n", b'data: {"type":"message_stop"}\n\n')


@dataclass(slots=True)
class Run:
    """One order under way."""

    payloads: list[tuple[bytes, bytes]]
    """What to send: (up to the key, after the key)."""
    keys: list[bytes]
    order: list[int] | None
    """Which key each call takes; None: any."""
    stream: bool
    most: int
    deadline: float
    sent: int = 0
    failed: int = 0
    quotes: list[str] = field(default_factory=list[str])
    total: list[float] = field(default_factory=list[float])
    first: list[float] = field(default_factory=list[float])
    last_end: float = 0.0

    def next(self) -> bytes | None:
        """The next call's bytes, or None when there is to be none."""
        if self.sent >= self.most or time.perf_counter() >= self.deadline:
            return None
        number = self.sent
        self.sent += 1
        head, tail = self.payloads[number % len(self.payloads)]
        key = random.choice(self.keys) if self.order is None else self.keys[self.order[number]]
        return head + key + tail


class Connection(asyncio.Protocol):
    """One connection that calls again as soon as it is answered."""

    def __init__(self, run: Run, done: asyncio.Future[None]) -> None:
        self._run = run
        self._done = done
        self._parser = httptools.HttpResponseParser(self)
        self._began = 0.0
        self._first = 0.0
        self._events = 0
        self._tail = b""
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._call()

    def _call(self) -> None:
        payload = self._run.next()
        if payload is None:
            self._transport.close()
            return
        self._first = 0.0
        self._events = 0
        self._tail = b""
        self._busy = True
        self._began = time.perf_counter()
        self._transport.write(payload)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if not self._first:
            self._first = time.perf_counter()
        if self._run.stream:
            self._events += body.count(b"data: ")
        self._tail = (self._tail + body)[-160:]

    def on_message_complete(self) -> None:
        now = time.perf_counter()
        run = self._run
        self._busy = False
        whole = self._parser.get_status_code() == 200
        if run.stream:
            whole = whole and self._events > 64 and self._tail.endswith(_ENDS)
        if whole:
            run.total.append(now - self._began)
            run.first.append(self._first - self._began)
            run.last_end = now
        else:
            self._fail(f"{self._parser.get_status_code()} {self._tail!r}")
        self._call()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._busy:
            self._fail(f"the connection was lost: {exc!r} after {self._tail!r}")
        if not self._done.done():
            self._done.set_result(None)

    def _fail(self, words: str) -> None:
        self._run.failed += 1
        if len(self._run.quotes) < 5:
            self._run.quotes.append(words)


async def carry_out(order: dict[str, Any], keys: list[bytes]) -> dict[str, Any]:
    """Carry out one order and tell what came of it."""
    port = order["port"]
    if "key" in order:
        keys = [order["key"].encode()]
    more = "".join(f"{name}: {value}\r\n" for name, value in order.get("headers", {}).items())
    payloads: list[tuple[bytes, bytes]] = []
    for body in order["bodies"]:
        data = body.encode()
        head = f"POST {order['path']} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{more}Authorization: Bearer "
        tail = f"\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        payloads.append((head.encode(), tail.encode() + data))
    if "phases" in order:
        return await offer_calls(payloads, keys, port, order["phases"])
    each_once = bool(order.get("each_key_once"))
    began = time.perf_counter()
    run = Run(
        payloads=payloads,
        keys=keys,
        order=list(range(len(keys))) if each_once else None,
        stream=order["stream"],
        most=len(keys) if each_once else order["most"],
        deadline=began + order["seconds"],
    )
    loop = asyncio.get_running_loop()
    waiting: list[asyncio.Future[None]] = []
    for number in range(order["concurrency"]):
        if number and order.get("ramp"):
            await asyncio.sleep(order["ramp"] / order["concurrency"])
        done: asyncio.Future[None] = loop.create_future()
        waiting.append(done)
        await loop.create_connection(lambda done=done: Connection(run, done), "127.0.0.1", port)
    _, late = await asyncio.wait(waiting, timeout=order["seconds"] + GRACE_SECONDS)
    total, first = sorted(run.total), sorted(run.first)
    return {
        "calls": len(total),
        "failed": run.failed + len(late),
        "quotes": run.quotes,
        "seconds": max(run.last_end - began, 1e-9),
        "p50_ms": at(total, 0.50),
        "p99_ms": at(total, 0.99),
        "first_p50_ms": at(first, 0.50),
        "first_p99_ms": at(first, 0.99),
    }


def main() -> None:
    """Carry out orders until stdin ends; the argument is a file with one key a line."""
    keys = Path(sys.argv[1]).read_bytes().split()
    for line in sys.stdin:
        print(json.dumps(uvloop.run(carry_out(json.loads(line), keys))), flush=True)


if __name__ == "__main__":
    main()
