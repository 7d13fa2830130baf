"""The engine is kept up, and what happens to it is reported and never raised."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

import engines.local.supervise as subject
from engines.local.environment import Say
from engines.local.launch import EngineSpec
from engines.local.process import healthy
from engines.local.sources import UnsupportedPlatform
from engines.local.supervise import GIVE_UP_AFTER, EngineState, Phase, pause_before, supervise

MakeSpec = Callable[..., EngineSpec]


class Reports:
    """Collect reports and wait for one."""

    def __init__(self) -> None:
        self.all: list[EngineState] = []
        self._news = asyncio.Event()

    def __call__(self, state: EngineState) -> None:
        self.all.append(state)
        self._news.set()

    def phases(self) -> list[Phase]:
        return [state.phase for state in self.all]

    async def count(self, phase: Phase, number: int) -> None:
        async with asyncio.timeout(20):
            while self.phases().count(phase) < number:
                self._news.clear()
                await self._news.wait()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "pause_before", lambda attempt: 0.0)


def test_pauses_between_starts_grow_and_are_bounded() -> None:
    assert [pause_before(number) for number in (1, 2, 3, 4, 5, 6, 7, 50)] == [0, 1, 2, 4, 8, 16, 30, 30]


async def test_progress_of_the_set_up_is_reported_before_the_start(stand_in: MakeSpec) -> None:
    reports = Reports()

    async def prepare(say: Say) -> EngineSpec:
        say("installing, 1 of 2 packages")
        return stand_in()

    running = asyncio.create_task(supervise(prepare, reports))
    await reports.count(Phase.READY, 1)
    assert reports.phases() == [Phase.INSTALLING, Phase.INSTALLING, Phase.STARTING, Phase.READY]
    assert reports.all[1].detail == "installing, 1 of 2 packages"
    assert reports.all[-1].detail.startswith("unix:")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not await healthy(stand_in())


async def test_an_engine_that_dies_is_started_again_with_the_reason(stand_in: MakeSpec) -> None:
    reports = Reports()
    spec = stand_in(first=f'open({str(stand_in().cache) + ".pid"!r}, "w").write(str(os.getpid()))')

    async def prepare(_: Say) -> EngineSpec:
        return spec

    running = asyncio.create_task(supervise(prepare, reports))
    await reports.count(Phase.READY, 1)
    os.kill(int((spec.cache.parent / "cache.pid").read_text()), signal.SIGKILL)
    await reports.count(Phase.READY, 2)
    assert "killed by signal 9" in reports.all[-2].detail
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_an_engine_that_never_starts_is_given_up_with_its_last_words(stand_in: MakeSpec) -> None:
    reports = Reports()

    async def prepare(_: Say) -> EngineSpec:
        return stand_in(first='raise ValueError("no such model")')

    await supervise(prepare, reports)
    assert reports.phases().count(Phase.STARTING) == GIVE_UP_AFTER
    assert reports.all[-1].phase is Phase.FAILED
    assert "ValueError: no such model" in reports.all[-1].detail


async def test_a_machine_that_cannot_run_it_fails_with_the_sentence_and_no_start() -> None:
    reports = Reports()

    async def prepare(_: Say) -> EngineSpec:
        raise UnsupportedPlatform("The local engine needs Linux.")

    await supervise(prepare, reports)
    assert reports.all[-1] == EngineState(Phase.FAILED, "The local engine needs Linux.")
    assert Phase.STARTING not in reports.phases()
