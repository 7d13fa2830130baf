"""Which replica takes a call, and when a call that failed is tried again."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.conversation import Prefix
from policies.replicas import Load, by_prefix, faded, least_loaded, remembered
from policies.retries import LONGEST_MS, RetryBudget, pause_ms

unit = st.floats(0, 1, exclude_max=True)


def load(key: str, calls: int = 0, tokens: int = 0, latency_us: float = 0.0) -> Load:
    return Load(key, calls, tokens, latency_us)


def told(number: int, shared: bytes | None = None, shared_tokens: int = 0) -> Prefix:
    return Prefix(str(number).encode(), shared, shared_tokens)


@given(st.integers(1, 9), unit, unit)
def test_a_choice_of_two_is_always_among_those_there_are(count: int, first: float, second: float) -> None:
    assert 0 <= least_loaded([load(str(at)) for at in range(count)], first, second) < count


@given(unit, unit)
def test_of_two_the_one_with_less_to_do_is_taken_and_of_equals_the_faster(
    first: float, second: float
) -> None:
    assert least_loaded([load("a", calls=5), load("b", calls=1)], first, second) == 1
    assert least_loaded([load("a", latency_us=9_000.0), load("b", latency_us=1_000.0)], first, second) == 1


def test_a_slow_replica_gets_fewer_calls_and_none_gets_all() -> None:
    draw = random.Random(7).random
    calls = [0, 0, 0]
    latency = [1_000.0, 1_000.0, 4_000.0]
    for _ in range(300):
        at = least_loaded([load(str(i), calls[i], 0, latency[i]) for i in range(3)], draw(), draw())
        calls[at] += 1
    assert calls[2] < calls[0] and calls[2] < calls[1] and calls[2] > 10


def test_one_conversation_goes_to_one_replica_and_many_spread_evenly() -> None:
    loads = [load(f"r{at}") for at in range(4)]
    assert len({by_prefix(loads, Prefix(b"same"), 100) for _ in range(20)}) == 1
    spread = Counter(by_prefix(loads, told(number), 100) for number in range(2_000))
    assert all(400 < spread[at] < 600 for at in range(4))


def test_a_replica_that_leaves_moves_only_its_own_conversations() -> None:
    loads = [load(f"r{at}") for at in range(4)]
    fewer = loads[:3]
    for number in range(500):
        before = loads[by_prefix(loads, told(number), 1)].key
        if before != "r3":
            assert fewer[by_prefix(fewer, told(number), 1)].key == before


@given(
    st.lists(st.integers(0, 100_000), min_size=2, max_size=6),
    st.binary(max_size=8),
    st.integers(0, 4_000),
    st.none() | st.integers(0, 6),
)
def test_affinity_never_overloads_one_replica(
    tokens: list[int], prefix: bytes, own: int, home: int | None
) -> None:
    loads = [load(str(at), tokens=each) for at, each in enumerate(tokens)]
    at = by_prefix(loads, Prefix(prefix), own, None if home is None else str(home))
    mean = (sum(tokens) + own) / len(tokens)
    assert tokens[at] + own <= max(1.25 * mean, mean + 2_000) or tokens[at] == min(tokens)


def test_a_conversation_stays_where_it_was_whatever_its_own_order_says() -> None:
    loads = [load(f"r{at}") for at in range(4)]
    for number in range(50):
        assert {by_prefix(loads, told(number), 1, f"r{home}") for home in range(4)} == {0, 1, 2, 3}
    busy = [load("r0", tokens=9_000), load("r1")]
    assert by_prefix(busy, told(1), 1, "r0") == 1


def test_conversations_of_one_system_prompt_begin_together_and_those_of_many_spread() -> None:
    loads = [load(f"r{at}") for at in range(4)]
    assert len({by_prefix(loads, told(number, b"shop", 400), 100) for number in range(50)}) == 1
    spread = Counter(by_prefix(loads, told(1, str(number).encode(), 400), 100) for number in range(2_000))
    assert all(400 < spread[at] < 600 for at in range(4))


@given(st.lists(st.integers(0, 5_000), min_size=2, max_size=6), st.binary(max_size=8), st.integers(0, 3_000))
def test_a_shared_prompt_is_worth_its_own_tokens_and_no_more(
    tokens: list[int], shared: bytes, worth: int
) -> None:
    loads = [load(str(at), tokens=each) for at, each in enumerate(tokens)]
    at = by_prefix(loads, Prefix(b"c", shared, worth), 1)
    assert tokens[at] <= min(tokens) + worth


def test_latency_rises_at_once_and_falls_within_seconds() -> None:
    assert faded(1_000, 9_000, 1) == 9_000
    assert 8_000 < faded(9_000, 1_000, 1_000) < 9_000
    assert faded(9_000, 1_000, 10_000_000) == 1_000


def test_a_replica_that_was_slow_once_is_tried_again_with_nothing_else_to_do() -> None:
    quick, slow = 20_000.0, 5_000_000.0
    waited_ms = 0
    while (
        least_loaded([load("a", latency_us=quick), load("b", latency_us=remembered(slow, waited_ms))], 0, 0)
        == 0
    ):
        waited_ms += 1_000
    assert 10_000 < waited_ms < 60_000
    assert remembered(slow, 0) == remembered(slow, -5_000) == slow
    assert remembered(slow, 10**9) == 0.0


@given(st.integers(1, 50), unit, st.integers(0, 10_000), st.none() | st.integers(0, 10_000))
def test_a_pause_honours_what_was_asked_and_the_deadline(
    retry: int, draw: float, asked: int, left: int | None
) -> None:
    pause = pause_ms(retry, draw, asked, left)
    if pause is None:
        assert asked > 5_000 or (left is not None and left <= LONGEST_MS + asked)
    else:
        assert asked <= pause <= asked + LONGEST_MS and (left is None or pause < left)


@pytest.mark.parametrize(
    ("retry", "draw", "asked", "pause"),
    [(1, 0.0, 0, 0), (1, 0.5, 0, 50), (3, 0.5, 0, 200), (9, 0.5, 0, LONGEST_MS // 2), (1, 0.5, 3_000, 3_050)],
)
def test_a_pause_is_drawn_from_a_span_that_doubles_and_comes_on_top_of_what_was_asked(
    retry: int, draw: float, asked: int, pause: int
) -> None:
    assert pause_ms(retry, draw, asked, None) == pause


def test_retries_add_at_most_a_fifth_in_the_long_run() -> None:
    budget = RetryBudget()
    made = sum((budget.called(), budget.take())[1] for _ in range(10_000))
    assert made <= 10_000 * 0.2 + 10
