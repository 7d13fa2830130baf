"""The engine's time is split over those who used it, and adds up to the period exactly."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.engine_time import Run, attribute

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


@given(st.lists(runs, max_size=20), st.integers(1, 1200))
def test_attributed_and_idle_add_up_to_the_period_exactly(calls: list[Run], length: int) -> None:
    found = attribute(calls, 0, length)
    assert found.idle + sum(found.busy.values()) == found.period == length
    assert all(time >= 0 for time in found.busy.values())


@given(st.lists(runs, min_size=1, max_size=10))
def test_the_order_of_the_calls_makes_no_difference(calls: list[Run]) -> None:
    assert attribute(calls, 0, 1500) == attribute(list(reversed(calls)), 0, 1500)
