"""Several engines under one supervision: each comes back by itself, and none takes another along."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import replace

import pytest

import engines.local.supervise as subject
from engines.local.adapter_keeper import Standing, together
from engines.local.launch import EngineSpec, environment
from engines.local.process import healthy
from engines.local.supervise import GIVE_UP_AFTER, EngineState, Phase, keep_all, keep_up

MakeSpec = Callable[..., EngineSpec]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(_: int) -> float:
        return 0.0

    monkeypatch.setattr(subject, "pause_before", at_once)


class Reports:
    """The last state of each replica, and every phase it went through."""

    def __init__(self) -> None:
        self.states: dict[int, EngineState] = {}
        self.phases: dict[int, list[Phase]] = {}
        self._news = asyncio.Event()

    def __call__(self, number: int, state: EngineState) -> None:
        self.states[number] = state
        self.phases.setdefault(number, []).append(state.phase)
        self._news.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds():
                self._news.clear()
                await self._news.wait()


def numbered(spec: EngineSpec, count: int) -> list[EngineSpec]:
    assert spec.socket is not None
    return [replace(spec, socket=spec.socket.with_name(f"engine-{each}.sock")) for each in range(count)]


async def ended(running: asyncio.Task[None]) -> None:
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_replica_that_dies_comes_back_and_the_other_never_left(stand_in: MakeSpec) -> None:
    reports = Reports()
    specs = numbered(stand_in(), 2)
    running = asyncio.create_task(keep_all(specs, reports))
    await reports.until(
        lambda: [each.phase for each in reports.states.values()] == [Phase.READY, Phase.READY]
    )
    pid = reports.states[1].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await reports.until(lambda: reports.phases[1].count(Phase.READY) == 2)
    assert reports.states[1].starts == 2
    assert reports.phases[0] == [Phase.STARTING, Phase.READY]
    await ended(running)
    assert [each.phase for each in reports.states.values()] == [Phase.DRAINING, Phase.DRAINING]
    assert not [each for each in specs if await healthy(each)]


async def test_one_that_never_starts_is_given_up_and_the_others_serve(stand_in: MakeSpec) -> None:
    reports = Reports()
    specs = numbered(
        stand_in(first='if path.endswith("engine-0.sock"): raise ValueError("no such model")'), 2
    )
    running = asyncio.create_task(keep_all(specs, reports))
    await reports.until(
        lambda: (
            {number: state.phase for number, state in reports.states.items()}
            == {0: Phase.FAILED, 1: Phase.READY}
        )
    )
    assert reports.phases[0].count(Phase.STARTING) == GIVE_UP_AFTER
    assert "no such model" in reports.states[0].detail
    assert await healthy(specs[1])
    await ended(running)


async def test_one_that_was_ready_is_started_again_more_often_than_one_that_never_was(
    stand_in: MakeSpec,
) -> None:
    reports = Reports()
    running = asyncio.create_task(keep_up(stand_in(), lambda state: reports(0, state)))
    for number in range(1, GIVE_UP_AFTER + 3):
        await reports.until(lambda number=number: reports.phases.get(0, []).count(Phase.READY) == number)
        pid = reports.states[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    await reports.until(lambda: reports.states[0].starts == GIVE_UP_AFTER + 3)
    await ended(running)


async def test_calls_that_run_are_waited_for_before_it_is_stopped(
    stand_in: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = Reports()
    busy = [2.0, 1.0, 0.0]

    async def at_work(_: object) -> float:
        assert await healthy(spec), "it was stopped while it had something to do"
        return busy.pop(0)

    monkeypatch.setattr(subject, "at_work", at_work)
    spec = stand_in()
    running = asyncio.create_task(keep_up(spec, lambda state: reports(0, state)))
    await reports.until(lambda: Phase.READY in reports.phases.get(0, []))
    await ended(running)
    assert not busy
    assert reports.phases[0][-1] is Phase.DRAINING
    assert not await healthy(spec)


async def test_a_replica_sees_no_other_card(stand_in: MakeSpec) -> None:
    base = {"CUDA_VISIBLE_DEVICES": "0,1"}
    assert environment(stand_in(), base)["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert environment(replace(stand_in(), card="1"), base)["CUDA_VISIBLE_DEVICES"] == "1"


LOADED, LOADING = Standing(loaded=True, rank=8, size=9), Standing(loaded=False, rank=8, size=9)
BROKEN = Standing(loaded=False, reason="it is not whole")


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        ([{"sql": LOADED}, {"sql": LOADED}], {"sql": LOADED}),
        ([{"sql": LOADED}, {"sql": LOADING}], {"sql": replace(LOADED, lacking=("1",))}),
        ([{"sql": LOADED}, {}], {"sql": replace(LOADED, lacking=("1",))}),
        ([{"sql": LOADING}, {"sql": LOADING}], {"sql": LOADING}),
        ([{"sql": LOADED}, {"sql": BROKEN}], {"sql": replace(LOADED, reason=BROKEN.reason, lacking=("1",))}),
        ([{"sql": LOADING}, {"sql": BROKEN}], {"sql": replace(LOADING, reason=BROKEN.reason)}),
        ([{"a": LOADED}, {"b": BROKEN}], {"a": replace(LOADED, lacking=("1",)), "b": BROKEN}),
        ([{}, {}], {}),
    ],
)
def test_an_adapter_is_where_it_is_loaded(
    each: list[dict[str, Standing]], expected: dict[str, Standing]
) -> None:
    assert together({str(number): standings for number, standings in enumerate(each)}) == expected
