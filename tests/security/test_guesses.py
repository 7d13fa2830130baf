"""Failed credentials by address: guessing slows down to a trickle, others go on, memory stays bounded."""

from __future__ import annotations

import pytest

from gateway.errors import TooManyFailures
from gateway.security import guesses as module
from gateway.security.guesses import A_MINUTE, AT_ONCE, Guesses


class Clock:
    """A clock that only the test moves."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def tried(guesses: Guesses, place: str, times: int, *, token: bool = False) -> int:
    """How many of so many attempts were let through to fail."""
    through = 0
    for _ in range(times):
        try:
            guesses.require_patience(place, token=token)
        except TooManyFailures:
            continue
        guesses.failed(place, token=token)
        through += 1
    return through


def test_a_hundred_thousand_guesses_of_an_hour_are_mostly_told_to_wait() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    through = 0
    for _ in range(1000):
        through += tried(guesses, "192.0.2.1", 100)
        clock.now += 3.6
    assert AT_ONCE <= through <= AT_ONCE + 60 * A_MINUTE + 1


def test_what_was_told_to_wait_may_try_again_when_it_has_waited() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    assert tried(guesses, "192.0.2.1", AT_ONCE + 5) == AT_ONCE
    with pytest.raises(TooManyFailures) as refusal:
        guesses.require_patience("192.0.2.1", token=False)
    clock.now += refusal.value.retry_after_seconds or 0
    guesses.require_patience("192.0.2.1", token=False)


def test_other_addresses_and_the_other_kind_of_credential_go_on() -> None:
    guesses = Guesses(Clock())
    tried(guesses, "192.0.2.1", AT_ONCE + 1)
    assert tried(guesses, "192.0.2.2", 1) == 1
    assert tried(guesses, "192.0.2.1", 1, token=True) == 1


def test_nobody_waits_longer_than_a_minute_however_many_failed_at_the_same_time() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    for _ in range(10 * AT_ONCE):
        guesses.failed("192.0.2.1", token=False)
    with pytest.raises(TooManyFailures) as refusal:
        guesses.require_patience("192.0.2.1", token=False)
    assert refusal.value.retry_after_seconds == 60
    clock.now += 60
    guesses.require_patience("192.0.2.1", token=False)


def test_memory_is_bounded_whatever_the_number_of_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ADDRESSES_AT_MOST", 100)
    clock = Clock()
    guesses = Guesses(clock)
    for number in range(1000):
        guesses.failed(f"place {number}", token=False)
    assert len(guesses._levels) <= 100
    clock.now += 3600
    guesses.failed("one more", token=False)
    for number in range(100):
        guesses.failed(f"later {number}", token=False)
    assert len(guesses._levels) <= 100
