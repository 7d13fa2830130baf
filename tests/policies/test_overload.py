"""Whom an overloaded worker turns away: lateness that lasts, a bound on running calls, and callers' shares."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.overload import (
    FALL_PERCENT,
    FEW,
    MEMORY_MS,
    PATIENCE_MS,
    Lateness,
    Level,
    crowded,
    heavy,
    overloaded,
    seen,
)

MOST, RUNNING = 100, 1_000
LATE, TOO_LATE = MOST + 1, 2 * MOST + 1


def after(*looks: tuple[int, int]) -> Lateness:
    """(when, how late), one after the other."""
    found = Lateness()
    for now, late in looks:
        found = seen(found, now, late, MOST, RUNNING)
    return found


@pytest.mark.parametrize(
    ("looks", "level"),
    [
        ([(0, MOST)], Level.CALM),
        ([(0, 10_000)], Level.CALM),
        ([(0, LATE), (PATIENCE_MS - 1, LATE)], Level.CALM),
        ([(0, LATE), (PATIENCE_MS, LATE)], Level.PRESSED),
        ([(0, LATE), (PATIENCE_MS, TOO_LATE)], Level.FULL),
        ([(0, LATE), (100, 0), (PATIENCE_MS, LATE)], Level.CALM),
        ([(0, LATE), (PATIENCE_MS, LATE), (PATIENCE_MS + 1, MOST)], Level.CALM),
        ([(0, LATE), (PATIENCE_MS, LATE), (PATIENCE_MS + 1, 0), (PATIENCE_MS + 2, TOO_LATE)], Level.FULL),
        ([(0, LATE), (PATIENCE_MS, LATE), (900, 0), (PATIENCE_MS + MEMORY_MS + 1, LATE)], Level.CALM),
    ],
    ids=[
        "on time",
        "one stall, however long",
        "not yet for long",
        "for long",
        "for long, and by much",
        "on time in between",
        "over at the first timely turn",
        "again soon: at once",
        "again after a while: from the beginning",
    ],
)
def test_only_lateness_that_lasts_turns_calls_away(looks: list[tuple[int, int]], level: Level) -> None:
    assert after(*looks).level is level


@given(late=st.lists(st.integers(0, 5 * MOST), min_size=1, max_size=50), step=st.integers(1, 500))
def test_a_timely_turn_is_always_calm_and_a_refusing_one_was_late(late: list[int], step: int) -> None:
    found = Lateness()
    for number, each in enumerate(late):
        found = seen(found, number * step, each, MOST, RUNNING)
        if each <= MOST:
            assert found.level is Level.CALM
        if found.level is Level.FULL:
            assert each > 2 * MOST


@pytest.mark.parametrize(
    ("running", "level"), [(0, 0), (74, 0), (75, 1), (99, 1), (100, 2), (500, 2)], ids=str
)
def test_a_quarter_of_the_room_is_kept_for_those_who_have_little(running: int, level: int) -> None:
    assert crowded(running, 100) == level


@pytest.mark.parametrize("level", Level)
def test_a_late_worker_with_few_calls_is_on_a_busy_machine_and_turns_nobody_away(level: Level) -> None:
    late = Lateness(0, 0, level, FEW)
    assert overloaded(late, FEW - 1, 4096) is Level.CALM
    assert overloaded(late, FEW, 4096) is max(level, Level.PRESSED)
    assert overloaded(Lateness(0, 0, level), FEW, 4096) is level
    assert overloaded(late, 8, 8) is Level.FULL


def test_a_bound_falls_from_what_runs_with_each_late_turn_and_rises_slowly_after() -> None:
    first = after((0, LATE), (PATIENCE_MS, LATE))
    assert first.bound == RUNNING * (100 - FALL_PERCENT) // 100
    second = seen(first, PATIENCE_MS + 20, LATE, MOST, RUNNING)
    assert second.bound == first.bound * (100 - FALL_PERCENT) // 100
    # On time again: whoever waits is not let in at once.
    timely = seen(second, PATIENCE_MS + 40, 0, MOST, second.bound)
    assert timely.level is Level.CALM
    assert timely.bound is not None
    assert second.bound < timely.bound < first.bound
    assert overloaded(timely, timely.bound, 4096) is Level.PRESSED
    assert overloaded(timely, 2 * timely.bound, 4096) is Level.FULL
    assert overloaded(timely, timely.bound - 1, 4096) is Level.CALM


def test_a_bound_that_nobody_comes_near_is_forgotten_after_a_while_and_never_before() -> None:
    found = after((0, LATE), (PATIENCE_MS, LATE))
    soon = seen(found, PATIENCE_MS + MEMORY_MS, 0, MOST, 0)
    assert soon.bound is not None
    assert seen(soon, PATIENCE_MS + MEMORY_MS + 1, 0, MOST, soon.bound).bound is not None
    assert seen(soon, PATIENCE_MS + MEMORY_MS + 1, 0, MOST, soon.bound // 2).bound is None


@given(turns=st.lists(st.tuples(st.integers(0, 5 * MOST), st.integers(0, 5_000)), max_size=60))
def test_a_bound_never_keeps_out_the_few_that_any_worker_carries(turns: list[tuple[int, int]]) -> None:
    found = Lateness()
    for number, (late, running) in enumerate(turns):
        found = seen(found, number * 50, late, MOST, running)
        assert found.bound is None or found.bound >= FEW


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 1000), min_size=1, max_size=30))
def test_somebody_always_has_its_share_and_nobody_with_less_than_the_mean(running: dict[str, int]) -> None:
    found = heavy(running)
    mean = sum(running.values()) / len(running)
    assert max(running, key=lambda who: running[who]) in found
    assert all((running[who] >= mean) == (who in found) for who in running)


def test_a_flood_is_heavy_and_its_neighbours_are_not() -> None:
    assert heavy({"flood": 500, "a": 1, "b": 3}) == {"flood"}
    assert heavy({}) == frozenset()
