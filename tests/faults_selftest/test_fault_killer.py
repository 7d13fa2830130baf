"""The killer kills whom it should, repeats itself by its seed, and lets a stopped process go again."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest

from gateway import crashpoints
from tests.faults import killer
from tests.faults.killer import Killer, armed, died, state, stop_for, stopped


async def _sleeper() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(60)")


async def test_it_kills_members_of_a_changing_set() -> None:
    alive = {process.pid: process for process in [await _sleeper(), await _sleeper()]}
    reaped: list[int | None] = []

    async def replace(pid: int) -> None:
        reaped.append(await alive.pop(pid).wait())
        successor = await _sleeper()
        alive[successor.pid] = successor

    try:
        kills = await Killer(lambda: alive, seed=7).run(3, every=(0.0, 0.01), after=replace)
        assert len(kills) == 3
        assert reaped == [-signal.SIGKILL] * 3
        assert len(alive) == 2
    finally:
        for process in alive.values():
            process.kill()
            await process.wait()


async def test_nobody_there_is_nobody_killed() -> None:
    assert Killer(list, seed=1).kill_one() is None


def test_a_seed_repeats_its_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    shot: list[int] = []
    monkeypatch.setattr(killer.os, "kill", lambda pid, _: shot.append(pid))
    for _ in range(2):
        repeated = Killer(lambda: range(1000, 1010), seed=3)
        for _ in range(5):
            repeated.kill_one()
    assert shot[:5] == shot[5:]
    assert len(set(shot)) > 1


async def test_a_stopped_process_goes_on_afterwards() -> None:
    process = await _sleeper()
    try:
        async with stopped(process.pid):
            assert state(process.pid) == "T"
        assert state(process.pid) != "T"
        await stop_for(process.pid, 0.01)
        assert state(process.pid) != "T"
    finally:
        process.kill()
        await died(process.pid)
        await process.wait()
    await died(process.pid)


def test_a_point_is_armed_through_the_environment() -> None:
    assert armed(killer.MID_STREAM) == {"WEIGHBRIDGE_CRASH_AT": "mid_stream"}
    assert armed(killer.AFTER_INTENT, 3) == {"WEIGHBRIDGE_CRASH_AT": "after_intent:3"}
    with pytest.raises(ValueError, match="no crash point"):
        armed("somewhere")


def test_the_product_knows_the_same_points() -> None:
    assert crashpoints.POINTS == killer.POINTS
