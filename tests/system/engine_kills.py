"""Kills of an engine under load, and what may come of them; used by the tests and by the soak.

The engine's own supervision brings it back: nothing here starts anything again.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engines.local.launch import EngineSpec
from engines.local.process import healthy
from engines.local.supervise import EngineState, Phase
from tests.faults.killer import died
from tests.faults.load import Mix, calls, drive, summary
from tests.faults.reconcile import same_id
from tests.faults.transcript import Transcript
from tests.system.deployment import Deployment


class Watched:
    """The last state of each replica, as its supervision reports it."""

    def __init__(self) -> None:
        self.states: dict[int, EngineState] = {}
        self.readied: Counter[int] = Counter()
        self._news = asyncio.Event()

    def __call__(self, number: int, state: EngineState) -> None:
        self.states[number] = state
        self.readied[number] += state.phase is Phase.READY
        self._news.set()

    async def until(self, holds: Callable[[], bool], seconds: float) -> None:
        """Wait until what the reports add up to holds."""
        async with asyncio.timeout(seconds):
            while not holds():
                self._news.clear()
                await self._news.wait()

    def ready(self) -> list[int]:
        """The numbers of those that serve."""
        return [number for number, state in self.states.items() if state.phase is Phase.READY]


@dataclass(slots=True)
class Kills:
    """What happened."""

    transcripts: list[Transcript] = field(default_factory=list[Transcript])
    all_at_once: int = 0
    """How often none was left."""
    away: list[float] = field(default_factory=list[float])
    """Seconds from each kill until that replica served again."""

    def told(self) -> str:
        """For people."""
        statuses = Counter(each.status for each in self.transcripts)
        answers = ", ".join(f"{status} {count}" for status, count in sorted(statuses.items()))
        slowest = max(each.total_ms for each in self.transcripts) / 1000
        return (
            f"{len(self.away)} kills, {self.all_at_once} times of all replicas at once; back after "
            f"{min(self.away):.1f} to {max(self.away):.1f} s; {summary(self.transcripts)}; statuses {answers}; "
            f"slowest call {slowest:.1f} s"
        )


async def kill_under_load(
    gateway: Deployment,
    watched: Watched,
    specs: Sequence[EngineSpec],
    *,
    kills: int,
    mix: Mix,
    seed: int,
    rate: float,
    back_seconds: float,
    who: str = "bulk",
) -> Kills:
    """Kill replicas one after the other, every fourth time all that are up; wait until each is back by itself."""
    rng = random.Random(seed)
    stop = asyncio.Event()
    happened = Kills()
    load = asyncio.create_task(
        drive(
            gateway.target,
            calls(seed=seed, keys=[gateway.keys[who]], mix=mix),
            rate=rate,
            stop=stop,
            timeout=60.0,
        )
    )
    waiting: list[asyncio.Task[None]] = []

    async def kill(number: int) -> None:
        pid, readied, at = watched.states[number].pid, watched.readied[number], time.monotonic()
        assert pid is not None
        os.killpg(pid, signal.SIGKILL)
        await died(pid)
        await watched.until(lambda: watched.readied[number] > readied, back_seconds)
        happened.away.append(time.monotonic() - at)

    try:
        made = 0
        while made < kills:
            await watched.until(lambda: len(watched.ready()) == len(specs), back_seconds)
            await asyncio.sleep(rng.uniform(0.2, 1.0))
            chosen = watched.ready() if made % 4 == 3 else [rng.choice(watched.ready())]
            chosen = chosen[: kills - made]
            happened.all_at_once += len(chosen) == len(specs)
            waiting = [asyncio.create_task(kill(number)) for number in chosen]
            made += len(waiting)
            await asyncio.gather(*waiting)
        assert all([await healthy(each) for each in specs])
        await gateway.ready()
    finally:
        for each in waiting:
            each.cancel()
        stop.set()
        happened.transcripts = await load
    return happened


def books_against(rows: Sequence[Mapping[str, Any]], transcripts: Sequence[Transcript]) -> list[str]:
    """What the ledger says otherwise than clients: for an engine that keeps no journal of its own."""
    wrong: list[str] = []
    by_id = {same_id(row["request_id"]): row for row in rows}
    if len(by_id) != len(rows):
        wrong.append(f"{len(rows)} rows of {len(by_id)} requests")
    seen = {same_id(each.request_id): each for each in transcripts if each.request_id}
    nameless = sum(not each.request_id for each in transcripts)
    unexplained = [request_id for request_id in by_id if request_id not in seen]
    if len(unexplained) > nameless:
        wrong.append(f"{len(unexplained)} rows that no client knows of, and {nameless} clients without an id")
    for request_id, each in seen.items():
        row = by_id.get(request_id)
        if row is None:
            if each.admitted:
                wrong.append(f"{request_id}: {each.how} and no row")
            continue
        completion, told = row["completion_tokens"], each.usage_completion
        if completion < each.delivered:
            wrong.append(f"{request_id}: {completion} in the ledger, {each.delivered} delivered")
        if each.how == "complete" and (row["status"] != "ok" or told not in (None, completion)):
            wrong.append(f"{request_id}: whole, told {told}; the ledger says {row['status']}, {completion}")
        if each.how in ("error", "refused") and (
            row["status"] == "ok" or (not each.delivered and completion)
        ):
            wrong.append(f"{request_id}: {each.how}; the ledger says {row['status']}, {completion}")
    return wrong


def faults_of(transcripts: Sequence[Transcript]) -> list[str]:
    """Calls that ended in a way that no kill of an engine excuses: they hung, or did not say what happened."""
    wrong: list[str] = []
    for each in transcripts:
        told = f"call {each.call} ({each.kind}, {each.leave}): {each.how} {each.status} {each.error_code} after {each.total_ms:.0f} ms"
        if each.how in ("timeout", "unreachable", "cut"):
            wrong.append(told)
        elif each.how == "refused" and (each.status not in (502, 503) or not each.error_code):
            wrong.append(told)
    return wrong
