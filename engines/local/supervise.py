"""Keep the local engine up: install it, start it, watch it, start it again with growing pauses.

It never raises for what the engine does; it reports. After `GIVE_UP_AFTER` starts in a row that did not become
ready, or an environment that cannot be made here, the state is `failed` and stays so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic

from engines.local.environment import Say
from engines.local.launch import EngineSpec
from engines.local.process import EngineDied, EngineProcess, healthy
from engines.local.sources import EngineUnavailable

READY_WITHIN_SECONDS = 300.0
GIVE_UP_AFTER = 5
STEADY_SECONDS = 60.0
PROBE_EVERY_SECONDS = 5.0
HUNG_AFTER_SECONDS = 60.0


class Phase(StrEnum):
    """Where the local engine is."""

    INSTALLING = "installing"
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class EngineState:
    """One report: the phase, and for people why or how far."""

    phase: Phase
    detail: str = ""


Report = Callable[[EngineState], None]
Prepare = Callable[[Say], Awaitable[EngineSpec]]


def pause_before(attempt: int) -> float:
    """Seconds to wait before start number `attempt` (the first is 1): none, then 1, 2, 4 ... at most 30."""
    return 0.0 if attempt <= 1 else float(min(30, 2 ** (attempt - 2)))


async def supervise(prepare: Prepare, report: Report, base_env: Mapping[str, str] | None = None) -> None:
    """Run the engine until cancelled or failed for good; on cancellation it is stopped before this returns.

    `prepare` makes the environment (it is handed a function for lines of progress) and says what to run.
    """
    report(EngineState(Phase.INSTALLING))
    try:
        spec = await prepare(lambda line: report(EngineState(Phase.INSTALLING, line)))
    except EngineUnavailable as problem:
        report(EngineState(Phase.FAILED, str(problem)))
        return
    attempt, why = 1, ""
    while attempt <= GIVE_UP_AFTER:
        report(EngineState(Phase.STARTING, f"start {attempt}: {why}" if why else ""))
        await asyncio.sleep(pause_before(attempt))
        engine = EngineProcess(spec, base_env)
        ready_at: float | None = None
        try:
            await engine.start()
            await engine.wait_ready(READY_WITHIN_SECONDS)
            ready_at = monotonic()
            report(EngineState(Phase.READY, spec.url))
            why = await _until_it_ends(engine)
        except (EngineDied, TimeoutError, OSError) as problem:
            why = str(problem)
        finally:
            await asyncio.shield(engine.stop())
        steady = ready_at is not None and monotonic() - ready_at >= STEADY_SECONDS
        attempt = 1 if steady else attempt + 1
    report(EngineState(Phase.FAILED, f"gave up after {GIVE_UP_AFTER} starts: {why}"))


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
