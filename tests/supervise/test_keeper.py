"""A kept child comes back, ever later when it keeps ending, and not at all when that would not help."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from gateway.embedded.process import Child, alive, spawn
from gateway.supervise import keeper as keeping
from gateway.supervise.keeper import Keeper


class Trial:
    """Starts small children by turns and writes down what is said of them."""

    def __init__(self, folder: Path, *programs: str) -> None:
        self.folder = folder
        self.programs = list(programs)
        self.started_at: list[float] = []
        self.said: list[str] = []
        self.failing = 0
        """So many starts, after the first, that come to nothing."""

    async def start(self) -> Child:
        self.started_at.append(asyncio.get_running_loop().time())
        if self.failing and len(self.started_at) > 1:
            self.failing -= 1
            raise OSError("no room")
        program = self.programs.pop(0) if len(self.programs) > 1 else self.programs[0]
        return spawn(
            "child",
            [sys.executable, "-S", "-c", program],
            log=self.folder / "child.log",
            death_signal=signal.SIGKILL,
            cwd=self.folder,
        )

    def keeper(self, given_up: int | None = None) -> Keeper:
        return Keeper("child", self.start, lambda _: None, self.said.append, given_up=given_up)

    async def until(self, starts: int) -> None:
        async with asyncio.timeout(20):
            while len(self.started_at) < starts:
                await asyncio.sleep(0.01)


async def test_a_child_that_keeps_ending_is_started_ever_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "FIRST_PAUSE", 0.05)
    trial = Trial(tmp_path, "")
    kept = trial.keeper()
    await kept.begin()
    await trial.until(5)
    await kept.release()
    pauses = [later - earlier for earlier, later in zip(trial.started_at, trial.started_at[1:], strict=False)]
    assert pauses[3] >= 0.4
    assert all(pause >= 0.05 * 2**number for number, pause in enumerate(pauses))
    assert kept.restarts >= 4


async def test_a_start_that_comes_to_nothing_is_made_again_and_so_is_one_of_a_child_that_had_gone_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(keeping, "STEADY_SECONDS", 0.0)
    trial = Trial(tmp_path, "")
    trial.failing = 2
    kept = trial.keeper()
    await kept.begin()
    await trial.until(14)
    await kept.release()
    assert trial.said.count("child could not be started: no room") == 2
    assert kept.restarts >= 13


async def test_a_status_that_says_it_is_pointless_ends_the_watch(tmp_path: Path) -> None:
    trial = Trial(tmp_path, "raise SystemExit(78)")
    kept = trial.keeper(given_up=78)
    await kept.begin()
    async with asyncio.timeout(20):
        while not trial.said:
            await asyncio.sleep(0.01)
    await kept.release()
    assert trial.said == ["child says that it cannot run here; it is not started again"]
    assert len(trial.started_at) == 1


async def test_what_a_dead_child_leaves_in_its_group_goes_too(tmp_path: Path) -> None:
    note = tmp_path / "grandchild"
    program = (
        "import subprocess, sys, pathlib\n"
        "left = subprocess.Popen(['sleep', '600'])\n"
        f"pathlib.Path({str(note)!r}).write_text(str(left.pid))\n"
    )
    trial = Trial(tmp_path, program, "import time; time.sleep(600)")
    kept = trial.keeper()
    await kept.begin()
    await trial.until(2)
    await kept.release()
    assert not alive(int(note.read_text()))
    assert kept.child is not None
    await kept.child.stop(signal.SIGTERM, 5)


async def test_a_released_child_runs_on(tmp_path: Path) -> None:
    trial = Trial(tmp_path, "import time; time.sleep(600)")
    kept = trial.keeper()
    await kept.begin()
    await kept.release()
    assert kept.child is not None
    assert kept.child.running
    assert await kept.child.stop(signal.SIGTERM, 5) == -signal.SIGTERM
