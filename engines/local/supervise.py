"""Keep the local engine up: install it, start it, watch it, start it again with growing pauses, let it finish at the end.

It never raises for what the engine does; it reports. After `GIVE_UP_AFTER` starts in a row that did not become
ready, or an environment that cannot be made here, the state is `failed` and stays so. An engine that was ready is
started again however often it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic

from engines.http1.transport import Http1Transport
from engines.local.environment import Say
from engines.local.gauges import at_work
from engines.local.launch import EngineSpec
from engines.local.process import EngineDied, EngineProcess, healthy
from engines.local.sources import EngineUnavailable

GIVE_UP_AFTER = 5
STEADY_SECONDS = 60.0
PROBE_EVERY_SECONDS = 5.0
HUNG_AFTER_SECONDS = 60.0
DRAIN_SECONDS = 30.0


class Phase(StrEnum):
    """Where a local engine is."""

    INSTALLING = "installing"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    """It finishes what it has and should get nothing new."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class EngineState:
    """One report: the phase, and for people why or how far."""

    phase: Phase
    detail: str = ""
    pid: int | None = None
    starts: int = 0
    """How often it was started, this time included."""


Report = Callable[[EngineState], None]
Prepare = Callable[[Say], Awaitable[EngineSpec]]
Gate = AbstractAsyncContextManager[object]


def pause_before(attempt: int) -> float:
    """Seconds to wait before start number `attempt` (the first is 1): none, then 1, 2, 4 ... at most 30."""
    return 0.0 if attempt <= 1 else float(min(30, 2 ** (attempt - 2)))


async def supervise(prepare: Prepare, report: Report, base_env: Mapping[str, str] | None = None) -> None:
    """Run one engine until cancelled or failed for good.

    `prepare` makes the environment (it is handed a function for lines of progress) and says what to run.
    """
    report(EngineState(Phase.INSTALLING))
    try:
        spec = await prepare(lambda line: report(EngineState(Phase.INSTALLING, line)))
    except EngineUnavailable as problem:
        report(EngineState(Phase.FAILED, str(problem)))
        return
    await keep_up(spec, report, base_env)


async def keep_all(
    specs: Sequence[EngineSpec],
    report: Callable[[int, EngineState], None],
    base_env: Mapping[str, str] | None = None,
) -> None:
    """Run several engines until cancelled or all have failed for good; reports carry the engine's number.

    Starting takes a core for most of a minute, so no more start at once than there are pairs of cores: the first is
    ready as soon as one alone would be.
    """
    gate = asyncio.Semaphore(max(1, (os.cpu_count() or 1) // 2))
    async with asyncio.TaskGroup() as group:
        for number, spec in enumerate(specs):
            group.create_task(
                keep_up(spec, lambda state, number=number: report(number, state), base_env, gate),
                name=f"engine {number}",
            )


async def keep_up(
    spec: EngineSpec, report: Report, base_env: Mapping[str, str] | None = None, gate: Gate | None = None
) -> None:
    """Run an engine that is installed until cancelled or failed for good.

    On cancellation it finishes what it runs, for `DRAIN_SECONDS` at most, and is stopped before this returns. `gate`
    is held from a start until the engine is ready.
    """
    attempt = starts = 1
    fruitless, why = 0, ""
    while fruitless < GIVE_UP_AFTER:
        report(EngineState(Phase.STARTING, f"start {starts}: {why}" if why else "", starts=starts))
        await asyncio.sleep(pause_before(attempt))
        engine = EngineProcess(spec, base_env)
        ready_at: float | None = None
        try:
            async with gate or contextlib.nullcontext():
                await engine.start()
                await engine.wait_ready(spec.ready_within)
            ready_at = monotonic()
            report(EngineState(Phase.READY, spec.url, engine.pid, starts))
            why = await _until_it_ends(engine)
        except (EngineDied, TimeoutError, OSError) as problem:
            why = str(problem)
        except asyncio.CancelledError:
            if ready_at is not None:
                report(EngineState(Phase.DRAINING, spec.url, engine.pid, starts))
                await asyncio.shield(_until_idle(spec))
            raise
        finally:
            await asyncio.shield(engine.stop())
        steady = ready_at is not None and monotonic() - ready_at >= STEADY_SECONDS
        attempt, starts = 1 if steady else attempt + 1, starts + 1
        fruitless = fruitless + 1 if ready_at is None else 0
    report(EngineState(Phase.FAILED, f"gave up after {GIVE_UP_AFTER} starts: {why}", starts=starts - 1))


async def _until_it_ends(engine: EngineProcess) -> str:
    """Return why a ready engine is of no use any more: it ended, or it has not answered for a minute."""
    ended = asyncio.ensure_future(engine.wait())
    answered = monotonic()
    try:
        while True:
            done, _ = await asyncio.wait((ended,), timeout=PROBE_EVERY_SECONDS)
            if done:
                return await engine.explain()
            if await healthy(engine.spec):
                answered = monotonic()
            elif monotonic() - answered > HUNG_AFTER_SECONDS:
                return f"the engine did not answer for {HUNG_AFTER_SECONDS:.0f} s"
    finally:
        ended.cancel()


async def _until_idle(spec: EngineSpec) -> None:
    """Wait until the engine has nothing to do, or its time is over."""
    transport = Http1Transport(spec.url)
    until = monotonic() + DRAIN_SECONDS
    try:
        while monotonic() < until:
            if not await at_work(transport):
                return
            await asyncio.sleep(0.2)
    finally:
        await transport.aclose()
