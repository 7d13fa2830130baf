"""Calls at a rate that does not wait for answers, as many independent clients make them; bounded in calls and in connections.

A call takes a connection that is free, or a new one; where all are taken it counts as not sent. What is told: answers by
second and status, the times of those with 200 and of those with 503, and whether the latter said when to come back.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast

import httptools

MOST_CONNECTIONS = 4000
OPEN_BEFORE = 512
"""Connections that are there when the first call is made: opening one costs this side more than a call."""
GRACE_SECONDS = 30.0


@dataclass(slots=True)
class Offer:
    """One order under way."""

    payloads: list[tuple[bytes, bytes]]
    keys: list[bytes]
    port: int
    began: float
    free: list[Client] = field(default_factory=list["Client"])
    connections: int = 0
    running: int = 0
    unsent: int = 0
    lost: int = 0
    unguided: int = 0
    """Refusals with 503 that did not say when to come back."""
    statuses: Counter[int] = field(default_factory=Counter[int])
    answers: list[tuple[float, float, int, float]] = field(
        default_factory=list[tuple[float, float, int, float]]
    )
    """(seconds since the beginning, how long it took, status, how long until the first of its body)."""


class Client(asyncio.Protocol):
    """One connection; between calls it waits in `free`."""

    def __init__(self, offer: Offer, first: bytes | None) -> None:
        """`first` is what it calls with at once, None where it waits."""
        self._offer = offer
        self._payload = first
        self._began = time.perf_counter()
        self._first = 0.0
        self._busy = first is not None
        self._guided = False
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._payload is not None:
            self._transport.write(self._payload)

    def call(self, payload: bytes) -> None:
        """Call once."""
        self._began = time.perf_counter()
        self._first = 0.0
        self._busy = True
        self._guided = False
        self._transport.write(payload)

    def close(self) -> None:
        """Leave."""
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self._guided = value.isdigit()

    def on_body(self, _: bytes) -> None:
        self._first = self._first or time.perf_counter()

    def on_message_complete(self) -> None:
        offer, now = self._offer, time.perf_counter()
        status = self._parser.get_status_code()
        offer.statuses[status] += 1
        offer.unguided += status == 503 and not self._guided
        offer.answers.append(
            (now - offer.began, now - self._began, status, (self._first or now) - self._began)
        )
        offer.running -= 1
        self._busy = False
        offer.free.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        offer = self._offer
        offer.connections -= 1
        if self._busy:
            offer.lost += 1
            offer.running -= 1
        elif self in offer.free:
            offer.free.remove(self)


async def offer_calls(
    payloads: list[tuple[bytes, bytes]], keys: list[bytes], port: int, phases: list[tuple[float, float]]
) -> dict[str, Any]:
    """Offer (calls a second, seconds) one after the other; what came of each phase."""
    offer = Offer(payloads, keys, port, time.perf_counter())
    for _ in range(min(OPEN_BEFORE, int(max(rate for rate, _ in phases)))):
        _, client = await asyncio.get_running_loop().create_connection(
            lambda: Client(offer, None), "127.0.0.1", port
        )
        offer.connections += 1
        offer.free.append(client)
    offer.began = time.perf_counter()
    sent, edges = 0, [0.0]
    for rate, seconds in phases:
        begins = time.perf_counter()
        in_phase = 0
        while (now := time.perf_counter()) < begins + seconds:
            due = int((now - begins) * rate)
            for _ in range(due - in_phase):
                await _send(offer, sent)
                sent += 1
            in_phase = due
            await asyncio.sleep(0.002)
        edges.append(time.perf_counter() - offer.began)
    ends = time.perf_counter() + GRACE_SECONDS
    while offer.running and time.perf_counter() < ends:
        await asyncio.sleep(0.05)
    for each in list(offer.free):
        each.close()
    return {
        "sent": sent - offer.unsent,
        "unsent": offer.unsent,
        "lost": offer.lost + offer.running,
        "unguided": offer.unguided,
        "statuses": {str(status): count for status, count in offer.statuses.items()},
        "phases": [_phase(offer, begins, ends) for begins, ends in itertools.pairwise(edges)],
        "well_after": _well_after(offer, edges[-2]),
    }


async def _send(offer: Offer, number: int) -> None:
    head, tail = offer.payloads[number % len(offer.payloads)]
    payload = head + random.choice(offer.keys) + tail
    if offer.free:
        offer.running += 1
        offer.free.pop().call(payload)
    elif offer.connections < MOST_CONNECTIONS:
        offer.running += 1
        offer.connections += 1
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: Client(offer, payload), "127.0.0.1", offer.port
            )
        except OSError:
            offer.running -= 1
            offer.connections -= 1
            offer.lost += 1
    else:
        offer.unsent += 1


def _phase(offer: Offer, begins: float, ends: float) -> dict[str, Any]:
    """What was answered within a phase; times of what was begun in it."""
    seconds = ends - begins
    within = [each for each in offer.answers if begins <= each[0] - each[1] < ends]
    well = sorted(took for _, took, status, _ in within if status == 200)
    first = sorted(first for _, _, status, first in within if status == 200)
    turned = sorted(took for _, took, status, _ in within if status == 503)
    answered = sum(1 for at, _, status, _ in offer.answers if status == 200 and begins <= at < ends)
    return {
        "seconds": seconds,
        "offered": len(within) / seconds,
        "goodput": answered / seconds,
        "turned_away": len(turned),
        "turned_share": len(turned) / max(len(within), 1),
        "p50_ms": at(well, 0.50),
        "p99_ms": at(well, 0.99),
        "longest_ms": at(well, 1.0),
        "first_p50_ms": at(first, 0.50),
        "first_p99_ms": at(first, 0.99),
        "first_longest_ms": at(first, 1.0),
        "turned_p50_ms": at(turned, 0.50),
        "turned_p99_ms": at(turned, 0.99),
    }


def _well_after(offer: Offer, edge: float) -> float:
    """Seconds from the last phase's beginning to the last call of it that was turned away or took over 100 ms."""
    late = [
        at - took - edge
        for at, took, status, _ in offer.answers
        if at - took >= edge and (status != 200 or took > 0.1)
    ]
    return max(late, default=0.0)


def at(values: list[float], share: float) -> float:
    """A percentile of sorted seconds, in milliseconds."""
    return values[min(len(values) - 1, int(len(values) * share))] * 1000 if values else 0.0
