"""The engines' time is split over those who used it, and adds up to the period times the engines exactly."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.engine_time import LATE, OTHERS, Run, Watched, attribute

runs = st.builds(
    lambda key, start, first, length, prompt, answer: Run(
        key, start, None if first is None else start + first, start + length, prompt, answer
    ),
    st.sampled_from("abc"),
    st.integers(0, 1000),
    st.none() | st.integers(0, 300),
    st.integers(0, 300),
    st.integers(0, 500),
    st.integers(0, 500),
)


def test_a_call_alone_is_charged_all_the_time_that_it_ran() -> None:
    found = attribute([Run("a", 100, 150, 400, 10, 20)], 0, 1000)
    assert (found.busy, found.idle) == ({"a": 300}, 700)


def test_two_alike_share_the_time_that_they_have_in_common() -> None:
    found = attribute([Run("a", 0, None, 100, 0, 10), Run("b", 50, None, 150, 0, 10)], 0, 200)
    assert (found.busy, found.idle) == ({"a": 75, "b": 75}, 50)


def test_who_makes_more_tokens_a_second_is_charged_more_of_it() -> None:
    found = attribute([Run("a", 0, None, 100, 0, 30), Run("b", 0, None, 100, 0, 10)], 0, 100)
    assert found.busy == {"a": 75, "b": 25}


def test_a_prompts_token_counts_a_share_of_an_answers() -> None:
    calls = [Run("reads", 0, None, 100, 100, 0), Run("writes", 0, None, 100, 0, 10)]
    assert attribute(calls, 0, 100).busy == {"reads": 50, "writes": 50}
    assert attribute(calls, 0, 100, prompt_weight=Fraction(1)).busy["reads"] == 91


def test_calls_that_reach_over_an_edge_count_within_the_period_only() -> None:
    found = attribute([Run("a", -50, None, 50, 0, 10), Run("b", 150, None, 500, 0, 10)], 0, 200)
    assert (found.busy, found.idle) == ({"a": 50, "b": 50}, 100)


def test_calls_that_went_through_nothing_share_by_their_number() -> None:
    assert attribute([Run("a", 0, None, 10, 0, 0), Run("b", 0, None, 10, 0, 0)], 0, 10).busy == {
        "a": 5,
        "b": 5,
    }


def test_a_period_without_length_is_refused() -> None:
    with pytest.raises(ValueError, match="ends before"):
        attribute([], 10, 10)


def test_how_long_it_worked_is_what_the_engine_says() -> None:
    calls = [Run("a", 0, None, 100, 0, 10), Run("b", 0, None, 100, 0, 30)]
    found = attribute(calls, 0, 200, watched=[Watched(0, 200, 200, 0, 40)])
    assert (found.busy, found.idle, found.unwatched) == ({"a": 10, "b": 30}, 160, 0)


def test_who_waits_for_an_engine_that_is_away_is_charged_nothing() -> None:
    found = attribute([Run("a", 0, None, 100, 0, 0)], 0, 200, watched=[Watched(0, 200, 200, 150, 0)])
    assert (found.busy, found.idle, found.away) == ({"a": 0}, 50, 150)


def test_where_nobody_asked_the_engine_the_ledger_decides() -> None:
    calls = [Run("a", 0, None, 100, 0, 10), Run("a", 150, None, 250, 0, 10)]
    found = attribute(calls, 0, 300, watched=[Watched(100, 200, 100, 0, 20)])
    assert (found.busy, found.idle, found.unwatched) == ({"a": 100 + 20 + 50}, 130, 200)


def test_a_minute_that_was_watched_in_part_is_the_ledgers_for_the_rest() -> None:
    found = attribute([Run("a", 0, None, 50, 0, 10)], 0, 100, watched=[Watched(0, 100, 40, 0, 10)])
    assert (found.busy, found.unwatched) == ({"a": 10 + 30}, 60)


def test_two_engines_are_paid_for_twice_and_may_work_both_at_a_time() -> None:
    calls = [Run("a", 0, None, 50, 0, 10), Run("a", 0, None, 50, 0, 10)]
    found = attribute(calls, 0, 100, engines=2, watched=[Watched(0, 100, 200, 0, 90)])
    assert (found.period, found.busy, found.idle) == (200, {"a": 90}, 110)


def test_an_engine_worked_no_longer_on_calls_than_they_ran() -> None:
    calls = [Run("a", 0, None, 50, 0, 10)]
    for engines in (1, 2):
        told = [Watched(0, 100, 100 * engines, 0, 60, 0, 10)]
        assert attribute(calls, 0, 100, engines=engines, watched=told).busy == {"a": 50}


def test_what_nobody_asked_for_here_took_the_time_that_calls_leave_at_most_a_step_a_token() -> None:
    calls = [Run("a", 0, None, 50, 0, 90)]
    alone = attribute(calls, 0, 100, watched=[Watched(0, 100, 100, 0, 80, 0, 100, 50)])
    assert alone.busy == {"a": 50, OTHERS: 16}
    steps = attribute(calls, 0, 100, watched=[Watched(0, 100, 100, 0, 80, 0, 100, 20)])
    assert steps.busy == {"a": 50, OTHERS: 30}


def test_work_while_no_call_ran_is_nobodys_in_the_ledger() -> None:
    found = attribute([], 0, 100, watched=[Watched(0, 100, 100, 0, 30, 0, 50)])
    assert (found.busy, found.idle) == ({OTHERS: 30}, 70)


def test_work_beyond_what_the_calls_took_is_nobodys_in_the_ledger() -> None:
    calls = [Run("a", 0, None, 100, 0, 10)]
    found = attribute(calls, 0, 100, watched=[Watched(0, 100, 100, 0, 60, 0, 40)])
    assert found.busy == {"a": 15, OTHERS: 45}


def test_a_call_explains_its_work_in_the_minutes_after_it_began_too() -> None:
    calls = [Run("a", 50, None, 250, 0, 40)]
    told = [
        Watched(at, at + 100, 100, 0, busy, 0, tokens)
        for at, busy, tokens in ((0, 50, 0), (100, 100, 25), (200, 50, 15))
    ]
    assert attribute(calls, 0, 300, watched=told).busy == {"a": 200}


def test_a_call_that_ended_long_ago_explains_nothing() -> None:
    calls = [Run("a", 0, None, 100, 0, 40), Run("b", 2 * LATE, None, 3 * LATE, 0, 10)]
    told = [Watched(0, 2 * LATE, 2 * LATE, 0, 100), Watched(2 * LATE, 4 * LATE, 2 * LATE, 0, 100, 0, 20)]
    assert attribute(calls, 0, 4 * LATE, watched=told).busy == {"a": 100, "b": 50, OTHERS: 50}


def test_no_engine_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="no engine"):
        attribute([], 0, 10, engines=0)


@st.composite
def stretches(draw: st.DrawFn) -> list[Watched]:
    """What engines said, stretch after stretch, with gaps; sometimes more than can be."""
    found: list[Watched] = []
    at = 0
    for gap, length in draw(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 200)), max_size=6)):
        at += gap
        watched, away, busy = (draw(st.integers(0, 2 * length)) for _ in range(3))
        found.append(
            Watched(
                at, at + length, watched, away, busy, draw(st.integers(0, 900)), draw(st.integers(0, 900))
            )
        )
        at += length
    return found


@given(st.lists(runs, max_size=20), stretches(), st.integers(0, 400), st.integers(1, 800), st.integers(1, 3))
def test_whatever_engines_say_the_parts_add_up_to_hours_times_engines(
    calls: list[Run], told: list[Watched], start: int, length: int, engines: int
) -> None:
    found = attribute(calls, start, start + length, engines=engines, watched=told)
    assert found.idle + found.away + sum(found.busy.values()) == found.period == engines * length
    assert min(found.idle, found.away, *found.busy.values(), 0) == 0
    assert found.busy.keys() <= {each.key for each in calls} | {OTHERS}
    assert found == attribute(calls[::-1], start, start + length, engines=engines, watched=told[::-1])


@given(st.lists(runs, max_size=20), st.integers(1, 500), st.integers(1, 500), st.data())
def test_the_parts_of_a_period_add_up_to_the_whole(
    calls: list[Run], first: int, second: int, data: st.DataObject
) -> None:
    told = [
        Watched(start, end, end - start, 0, data.draw(st.integers(0, end - start)))
        for start, end in ((0, first), (first, first + second))
    ]
    whole = attribute(calls, 0, first + second, watched=told)
    parts = [attribute(calls, 0, first, watched=told), attribute(calls, first, first + second, watched=told)]
    assert whole.idle == sum(each.idle for each in parts)
    for key in {*whole.busy, *parts[0].busy, *parts[1].busy}:
        assert abs(whole.busy.get(key, 0) - sum(each.busy.get(key, 0) for each in parts)) <= 2


@given(st.lists(runs, max_size=20), st.integers(1, 1200))
def test_attributed_and_idle_add_up_to_the_period_exactly(calls: list[Run], length: int) -> None:
    found = attribute(calls, 0, length)
    assert found.idle + sum(found.busy.values()) == found.period == length
    assert all(time >= 0 for time in found.busy.values())


@given(st.lists(runs, min_size=1, max_size=10))
def test_the_order_of_the_calls_makes_no_difference(calls: list[Run]) -> None:
    assert attribute(calls, 0, 1500) == attribute(list(reversed(calls)), 0, 1500)
