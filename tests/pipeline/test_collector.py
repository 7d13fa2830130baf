"""What lives long is looked through by the collector once, not again and again; what is young, every turn."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from gateway.collector import FEW, MUCH, Collector


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


class _Cycle:
    def __init__(self) -> None:
        self.own = self


def test_much_that_lives_long_is_set_aside_while_few_calls_run_and_goes_as_ever() -> None:
    now, running = [0.0], [FEW + 1]
    collector = Collector(lambda: running[0], lambda: now[0])
    before = gc.get_freeze_count()
    much = [[number] for number in range(MUCH)]
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
    now[0] += 10.0
    after = gc.get_freeze_count()
    collector.turn()
    assert gc.get_freeze_count() <= after
    assert len(little) == 100


def test_a_cycle_of_the_last_second_is_found_in_every_turn() -> None:
    now = [0.0]
    collector = Collector(lambda: 0, lambda: now[0])
    for _ in range(3):
        gone = weakref.ref(_Cycle())
        collector.turn()
        assert gone() is None
        now[0] += 1.0
