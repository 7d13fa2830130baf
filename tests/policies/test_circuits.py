"""When an address is left alone, and what closes its circuit again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.calling import EntityRules
from policies.circuits import (
    CLOSED,
    LONGEST_OPEN_MS,
    PROBE_MS,
    Circuit,
    State,
    due,
    failed,
    probing,
    refusal,
    succeeded,
    younger,
)

RULES = EntityRules(failures=3, open_ms=1_000)


def broken(times: int, at_ms: int = 100) -> Circuit:
    circuit = CLOSED
    for _ in range(times):
        circuit = failed(circuit, at_ms, at_ms, RULES, "upstream_500")
    return circuit


def test_it_opens_after_failures_in_a_row_and_a_success_between_starts_over() -> None:
    assert broken(2).state is State.CLOSED
    assert failed(succeeded(broken(2), 100, 100), 100, 100, RULES, "x").state is State.CLOSED
    assert broken(3) == Circuit(State.OPEN, 1_100, 1, 100, "upstream_500")
    assert "open for another 0.5 s (upstream_500)" in (refusal(broken(3), 600) or "")


def test_it_opens_when_half_of_its_calls_fail_though_never_in_a_row() -> None:
    circuit, calls = CLOSED, 0
    while circuit.state is State.CLOSED and calls < 60:
        calls += 1
        circuit = failed(circuit, 1, 1, RULES, "x") if calls % 3 else succeeded(circuit, 1, 1)
    assert 20 <= calls < 40


def test_a_probe_closes_it_or_opens_it_for_twice_as_long() -> None:
    opened = broken(3)
    assert not due(opened, 1_099) and due(opened, 1_100)
    trying = probing(opened, 1_100)
    assert refusal(trying, 1_200) is not None
    assert succeeded(trying, 1_100, 1_300) == Circuit(changed_ms=1_300)
    again = failed(trying, 1_100, 1_300, RULES, "x")
    assert (again.state, again.until_ms, again.opened) == (State.OPEN, 3_300, 2)
    for _ in range(20):
        again = failed(probing(again, again.until_ms), again.until_ms, again.until_ms, RULES, "x")
        assert again.until_ms - again.changed_ms <= LONGEST_OPEN_MS


def test_a_call_that_began_before_tells_nothing_of_now() -> None:
    opened = broken(3, at_ms=500)
    assert succeeded(opened, 400, 900) is opened
    assert failed(opened, 400, 900, RULES, "x") is opened
    assert succeeded(opened, 600, 900).state is State.CLOSED


def test_of_a_circuit_that_is_tried_only_the_probe_tells_anything() -> None:
    trying = probing(broken(3), 1_100)
    # It began before the circuit opened, and timed out while another was sent to see.
    assert failed(trying, 90, 1_200, RULES, "x") is trying
    assert succeeded(trying, 90, 1_200) is trying
    assert failed(trying, 1_100, 1_200, RULES, "x").state is State.OPEN


def test_a_probe_that_never_tells_is_followed_by_another_and_by_none_before_its_time() -> None:
    trying = probing(broken(3), 1_100)
    assert not due(trying, 1_099 + PROBE_MS) and due(trying, 1_100 + PROBE_MS)
    assert not due(CLOSED, 1_100)


def test_of_two_opinions_of_the_same_moment_ones_own_holds() -> None:
    mine, yours = Circuit(State.OPEN, 9, 1, 5), Circuit(State.CLOSED, 0, 0, 5)
    assert younger(mine, yours) is mine and younger(yours, mine) is yours


def test_an_upstream_that_asks_for_a_pause_gets_it_and_no_penalty() -> None:
    resting = failed(CLOSED, 100, 100, RULES, "upstream_429", rest_ms=3_000)
    assert (resting.state, resting.until_ms, resting.opened) == (State.OPEN, 3_100, 0)
    # One that is ill and asks for more than it would get has what it asks for; for less, what the illness brings.
    for rest_ms, until_ms in ((30_000, 30_100), (500, 1_100)):
        ill = failed(broken(2), 100, 100, RULES, "upstream_503", rest_ms=rest_ms)
        assert (ill.state, ill.until_ms, ill.opened) == (State.OPEN, until_ms, 1)


@given(st.integers(0, 100), st.integers(0, 100))
def test_workers_that_tell_each_other_agree(one: int, other: int) -> None:
    mine, yours = Circuit(State.OPEN, 9, 1, one), Circuit(State.CLOSED, 0, 0, other)
    if one != other:
        assert younger(mine, yours) == younger(yours, mine)
