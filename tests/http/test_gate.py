"""The gate looks at the event loop often only while there are calls enough to make it late."""

from __future__ import annotations

import asyncio

import pytest

from gateway.http.gate import REST_SECONDS, TICK_SECONDS, Gate
from gateway.pipeline.ports import Keys
from policies.overload import FEW


async def test_it_looks_often_while_many_calls_run_and_seldom_while_few_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate(Keys, late_ms=100, most_calls=1000, refused=lambda code: None)  # type: ignore[arg-type]
    running: set[int] = set()
    pauses: asyncio.Queue[float] = asyncio.Queue()
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        pauses.put_nowait(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", noted)
    watching = asyncio.create_task(gate.watch(running))
    first = await pauses.get()
    running.update(range(FEW))
    while (often := await pauses.get()) != TICK_SECONDS:
        assert often > TICK_SECONDS
    running.pop()
    while (seldom := await pauses.get()) == TICK_SECONDS:
        pass
    monkeypatch.undo()
    watching.cancel()
    for each in (first, seldom):
        assert REST_SECONDS / 4 < each <= 1.25 * REST_SECONDS
