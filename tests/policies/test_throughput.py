"""What provisions guarantee, what is lent of them, and how workers share it, for whatever comes."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policies.throughput import (
    BURST_MS,
    LONGEST_WINDOW_MS,
    WINDOW_MS,
    Bucket,
    Pool,
    Provision,
    Throughput,
    booking,
    limit_after,
    limit_now,
    most_lent,
    parts,
    pause_after,
    unreserved,
    window_ms,
)

POOL = Pool("p", "local", replicas=2, tokens_per_second=500, slots=16)


@pytest.mark.parametrize(
    ("others", "asked", "fits"),
    [
        ((), 1000, True),
        ((), 1001, False),
        ((600, 300), 100, True),
        ((600, 300), 101, False),
        ((1000,), 0, True),
        ((1200,), 1, False),
    ],
)
def test_no_more_is_booked_than_the_engine_can_do(others: tuple[int, ...], asked: int, fits: bool) -> None:
    assert (booking(POOL, others, asked) is None) is fits


def test_a_booking_that_does_not_fit_shows_the_arithmetic() -> None:
    found = booking(POOL, (600, 300), 150)
    assert found is not None
    assert (found.capacity, found.booked, found.asked) == (1000, 900, 150)
    assert found.message == (
        "900 of the engine's 1000 tokens/s are provisioned to others, which leaves 100; 150 were asked for:"
        " 900 + 150 = 1050 > 1000."
    )


def test_an_endpoints_provision_comes_before_those_of_the_callers_groups() -> None:
    one, two, three = (
        Provision(each, each, subject, 10) for each, subject in (("3", "e"), ("1", "g"), ("2", "h"))
    )
    found = Throughput.made(POOL, (one, two, three))
    assert [each.id for each in found.provisions] == ["1", "2", "3"]
    assert [each.id for each in found.of("e", ("g", "h"))] == ["3", "1", "2"]
    assert found.of("other", ("nobody",)) == ()
    assert found.rate == 30


CALLS = st.lists(st.tuples(st.integers(0, 3_000), st.integers(1, 5_000)), min_size=1, max_size=60)


@given(rate=st.integers(1, 1_000), calls=CALLS)
@example(rate=245, calls=[(0, 2286), (0, 4182), (0, 113)])
def test_demand_that_never_ceases_gets_its_rate_and_no_more_than_that_and_a_burst(
    rate: int, calls: list[tuple[int, int]]
) -> None:
    """Whenever it covers a call there is one: what goes is then what a rate is."""
    bucket, now, used, last = Bucket.full(rate, 0), 0, 0, 0
    for _, tokens in calls:
        now += bucket.filled(rate, now).covers_in_ms(rate)
        bucket = bucket.filled(rate, now)
        assert bucket.covers
        bucket = bucket.charged(tokens)
        used, last = used + tokens, tokens
        # A millisecond for each call is lost to the clock's grain.
        assert used >= rate * (now - len(calls)) / 1000
        assert used - last <= rate * (now + BURST_MS) / 1000 + 1


@given(rate=st.integers(1, 1_000), calls=CALLS)
def test_what_was_charged_too_much_comes_back(rate: int, calls: list[tuple[int, int]]) -> None:
    straight = corrected = Bucket.full(rate, 0).charged(rate * BURST_MS)
    now = 0
    for pause, tokens in calls:
        # Below the brim, where nothing runs over.
        straight = straight.charged(tokens)
        corrected = corrected.charged(3 * tokens).charged(-2 * tokens)
        now += pause % 10
        straight, corrected = straight.filled(rate, now), corrected.filled(rate, now)
    assert corrected.tokens == pytest.approx(straight.tokens)


def test_a_clock_that_goes_back_neither_gives_nor_takes() -> None:
    bucket = Bucket(-5.0, 1_000)
    assert bucket.filled(100, 400).filled(100, 1_000).tokens == -5.0


@given(
    slots=st.integers(1, 200),
    capacity=st.integers(1, 10_000),
    reserved=st.integers(0, 10_000),
    covered=st.integers(0, 300),
    limit=st.floats(1, 200),
)
def test_no_slot_is_idle_while_anybody_waits_unless_a_target_was_missed(
    slots: int, capacity: int, reserved: int, covered: int, limit: float
) -> None:
    spare = unreserved(slots, reserved, capacity)
    assert 0 <= spare <= slots
    assert spare * capacity <= slots * (capacity - min(reserved, capacity))
    assert covered + most_lent(slots, spare, covered, float(slots)) >= slots
    bounded = most_lent(slots, spare, covered, limit)
    assert spare <= bounded <= max(spare, slots - covered)
    assert bounded == spare or bounded <= limit


@given(
    slots=st.integers(1, 100),
    heard=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=50),
)
def test_the_limit_stays_between_one_and_all_and_goes_the_right_way(
    slots: int, heard: list[tuple[int, int]]
) -> None:
    limit = float(slots)
    for late, timely in heard:
        after = limit_after(limit, slots, late, timely)
        assert 1.0 <= after <= slots
        if late and not timely:
            assert after <= limit
        if timely and not late:
            assert after >= limit
        limit = after


@pytest.mark.parametrize("slots", [1, 4, 16, 100])
def test_a_target_that_is_always_missed_ends_lending_within_a_few_calls(slots: int) -> None:
    limit, calls = float(slots), 0
    while limit > 1.0:
        limit, calls = limit_after(limit, slots, 1, 0), calls + 1
    assert calls <= 10
    while limit < slots:
        limit, calls = limit_after(limit, slots, 0, 1), calls + 1
    assert calls <= 260


@given(
    limit=st.floats(1, 16), quiet=st.integers(0, 2 * LONGEST_WINDOW_MS), usual=st.floats(0, LONGEST_WINDOW_MS)
)
def test_everything_is_lent_one_window_after_the_last_call_and_taken_back_with_the_next(
    limit: float, quiet: int, usual: float
) -> None:
    assert WINDOW_MS <= window_ms(usual) <= LONGEST_WINDOW_MS
    assert limit_now(limit, 16, quiet, usual) == (16.0 if quiet >= window_ms(usual) else limit)
    assert limit_now(limit, 16, 0, usual) == limit
    assert limit_now(limit, 16, LONGEST_WINDOW_MS, usual) == 16.0


@given(
    mean=st.floats(1, LONGEST_WINDOW_MS / 1.5),
    parts_of_it=st.lists(st.floats(0.5, 1.5), min_size=1, max_size=30),
    following=st.floats(0.5, 1.5),
    absences=st.sets(st.integers(0, 29)),
)
def test_whoever_calls_now_and_then_is_not_idle_between_two_calls(
    mean: float, parts_of_it: list[float], following: float, absences: set[int]
) -> None:
    usual = 0.0
    for number, part in enumerate(parts_of_it):
        usual = pause_after(usual, part * mean)
        if number in absences:
            usual = pause_after(usual, LONGEST_WINDOW_MS + 1 + part * mean)
    # Up to its next call, whenever that comes, nothing more is lent.
    assert limit_now(2.0, 16, int(following * mean * 0.999), usual) == 2.0


@given(
    most=st.integers(0, 200),
    demands=st.lists(st.integers(0, 100), min_size=1, max_size=12),
    turn=st.integers(0, 10**9),
)
def test_workers_parts_are_all_there_is_and_none_lacks_what_another_does_not_use(
    most: int, demands: list[int], turn: int
) -> None:
    given_ = parts(most, demands, turn)
    assert sum(given_) == most
    lacking = [part for part, demand in zip(given_, demands, strict=True) if part < demand]
    unused = [part for part, demand in zip(given_, demands, strict=True) if part > demand]
    assert not (lacking and unused)
    # Who lacks something has as much as anybody, but for the one that cannot be divided.
    assert all(max(given_) - each <= 1 for each in lacking)


def test_a_single_slot_goes_round_among_all_workers_that_want_it() -> None:
    had = [parts(1, [9, 9, 9], turn).index(1) for turn in range(6)]
    assert had == [0, 1, 2, 0, 1, 2]
