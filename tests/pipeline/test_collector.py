"""What lives long is looked through by the collector once, not again and again; what is young, every turn."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway import collector as module
from gateway.collector import FEW, LATEST_SECONDS, LONG_SECONDS, Collector

MUCH = 20_000


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


class _Cycle:
    def __init__(self) -> None:
        self.own = self


def test_what_takes_long_to_look_at_is_set_aside_while_few_calls_run_and_goes_as_ever() -> None:
    now, running, spent, look = [0.0], [FEW + 1], [0.0], [LONG_SECONDS]

    def clock_of_the_processor() -> float:
        spent[0] += look[0]
        return spent[0]

    collector = Collector(lambda: running[0], clock=lambda: now[0], spent=clock_of_the_processor)
    before = gc.get_freeze_count()
    much = [[number] for number in range(MUCH)]
    now[0] += LATEST_SECONDS
    collector.turn()
    assert gc.get_freeze_count() <= before
    running[0] = FEW
    collector.turn()
    assert gc.get_freeze_count() <= before, "its turn has not come"
    now[0] += 10.0
    collector.turn()
    assert gc.get_freeze_count() >= before + MUCH
    much.clear()
    assert gc.get_freeze_count() < before + MUCH
    little = [[number] for number in range(100)]
    look[0] = LONG_SECONDS / 2
    now[0] += 10.0
    after = gc.get_freeze_count()
    collector.turn()
    assert gc.get_freeze_count() <= after
    assert len(little) == 100


def test_a_tuple_that_another_thread_is_making_is_left_alone() -> None:
    """A list of all objects would hold it, and Python fails where it grows a tuple that something else holds."""
    now, turns, interval = [0.0], 0, sys.getswitchinterval()
    collector = Collector(lambda: 0, clock=lambda: now[0], spent=lambda: 0.0)
    sys.setswitchinterval(1e-4)
    try:
        with ThreadPoolExecutor(1) as pool:
            making = pool.submit(lambda: [tuple(sum(range(20_000)) for _ in range(37)) for _ in range(40)])
            while not making.done():
                now[0] += 10.0
                collector.turn()
                turns += 1
        assert {len(each) for each in making.result()} == {37}
        assert turns > 1
    finally:
        sys.setswitchinterval(interval)


def test_a_cycle_of_the_last_second_is_found_in_every_turn() -> None:
    now = [0.0]
    collector = Collector(lambda: 0, clock=lambda: now[0])
    for _ in range(3):
        gone = weakref.ref(_Cycle())
        collector.turn()
        assert gone() is None
        now[0] += 1.0


def _seconds_until_found(collector: Collector, now: list[float]) -> float:
    """Until a look at all, a turn a second: a cycle that has survived two looks is found by no other."""
    gone = weakref.ref(one := _Cycle())
    collector.turn()
    collector.turn()
    del one
    began = now[0]
    while gone() is not None:
        now[0] += 1.0
        collector.turn()
        assert now[0] - began <= 2 * LATEST_SECONDS
    return now[0] - began


def test_a_look_at_all_waits_for_the_end_of_a_line_but_not_for_ever() -> None:
    now, pressed = [0.0], [False]
    collector = Collector(lambda: 0, lambda: pressed[0], clock=lambda: now[0], spent=lambda: 0.0)
    at_ease = _seconds_until_found(collector, now)
    assert at_ease <= 11.0
    pressed[0] = True
    assert at_ease + LATEST_SECONDS - 1.0 <= _seconds_until_found(collector, now)


def test_new_objects_by_the_hundred_thousand_bring_no_look_at_all() -> None:
    now, looks = [0.0], list[int]()
    collector = Collector(lambda: 0, clock=lambda: now[0])
    collector.turn()

    def noted(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            looks.append(info["generation"])

    gc.callbacks.append(noted)
    try:
        for _ in range(12):
            collector.turn()
        kept = [[number] for number in range(20 * MUCH)]
    finally:
        gc.callbacks.remove(noted)
    assert len(kept) == 20 * MUCH
    assert set(looks) == {0, 1}


def test_what_there_is_at_the_start_is_set_aside_and_the_young_are_looked_at_when_they_are_many() -> None:
    much = [[number] for number in range(MUCH)]
    Collector(lambda: 0)
    frozen = gc.get_freeze_count()
    much.clear()
    assert frozen >= MUCH
    assert gc.get_threshold()[0] == module.YOUNG


def test_after_a_look_that_took_long_the_next_one_waits_so_many_times_longer() -> None:
    now, looks = [0.0], [0]

    def clock_of_the_processor() -> float:
        looks[0] += 1
        now[0] += 0.5
        return 0.0

    collector = Collector(lambda: 0, clock=lambda: now[0], spent=clock_of_the_processor)
    collector.turn()
    pause = 1.0 * module._PAUSE_TIMES  # pyright: ignore[reportPrivateUsage]
    for seconds in (pause / 4, pause - 1.0):
        now[0] = seconds
        collector.turn()
    assert looks == [2]
    now[0] = pause + 1.0
    collector.turn()
    assert looks == [4]
