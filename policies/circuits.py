"""When an address that fails is left alone, and when it is tried again.

Closed until it fails several times in a row or too often; open for a while; then half open: one call may try, and
what becomes of it decides. Of two opinions about one circuit the younger holds, so that workers agree by telling.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from policies.calling import EntityRules

LONGEST_OPEN_MS = 60_000
PROBE_MS = 30_000
"""How long a half-open circuit waits for its probe before another may be made."""
_SAMPLES = 20
_TOO_OFTEN = 0.5
_FADE = 0.9


class State(StrEnum):
    """Where a circuit stands."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True)
class Circuit:
    """One address's standing. Times are milliseconds of a clock that all workers share."""

    state: State = State.CLOSED
    until_ms: int = 0
    """Open: when a call may try. Half open: when another may, should the one under way tell nothing."""
    opened: int = 0
    """How often in a row it opened."""
    changed_ms: int = 0
    reason: str = ""
    failures: int = 0
    """In a row; a worker's own, as are the two below."""
    samples: int = 0
    rate: float = 0.0
    """Faded share of failures."""


CLOSED = Circuit()


def succeeded(circuit: Circuit, began_ms: int, now_ms: int) -> Circuit:
    """After a call that was answered; one that began before the circuit opened tells nothing of now."""
    if circuit.state is not State.CLOSED:
        return circuit if began_ms < circuit.changed_ms else Circuit(changed_ms=now_ms)
    if not circuit.failures and not circuit.samples:
        return circuit
    if circuit.rate < 0.01:
        return replace(CLOSED, changed_ms=circuit.changed_ms)
    return replace(circuit, failures=0, samples=circuit.samples + 1, rate=circuit.rate * _FADE)


def failed(
    circuit: Circuit, began_ms: int, now_ms: int, rules: EntityRules, reason: str, rest_ms: int = 0
) -> Circuit:
    """After a call that failed; `rest_ms` is how long the upstream asked to be left alone."""
    if circuit.state is State.OPEN or (circuit.state is State.HALF_OPEN and began_ms < circuit.changed_ms):
        # A call that began before: it tells nothing new.
        return circuit
    failures = circuit.failures + 1
    samples = circuit.samples + 1
    rate = circuit.rate * _FADE + (1 - _FADE)
    often = samples >= _SAMPLES and rate >= _TOO_OFTEN
    if circuit.state is State.CLOSED and failures < rules.failures and not often and not rest_ms:
        return replace(circuit, failures=failures, samples=samples, rate=rate, reason=reason)
    if circuit.state is State.CLOSED and rest_ms and failures < rules.failures and not often:
        # It is not ill, it asked for a pause: the pause is all it gets.
        return Circuit(State.OPEN, now_ms + rest_ms, 0, now_ms, reason)
    opened = circuit.opened + 1
    wait = min(LONGEST_OPEN_MS, rules.open_ms << min(opened - 1, 10))
    return Circuit(State.OPEN, now_ms + max(wait, rest_ms), opened, now_ms, reason)


def due(circuit: Circuit, now_ms: int) -> bool:
    """Whether a probe may be made."""
    return circuit.state is not State.CLOSED and now_ms >= circuit.until_ms


def probing(circuit: Circuit, now_ms: int) -> Circuit:
    """One call tries now; others keep away until it has told, or too long has passed."""
    return replace(circuit, state=State.HALF_OPEN, until_ms=now_ms + PROBE_MS, changed_ms=now_ms)


def untold(circuit: Circuit, now_ms: int) -> Circuit:
    """After a probe that ended without telling anything, as one does whose client leaves: the next call may try."""
    if circuit.state is not State.HALF_OPEN:
        return circuit
    return replace(circuit, state=State.OPEN, until_ms=now_ms, changed_ms=max(now_ms, circuit.changed_ms + 1))


def refusal(circuit: Circuit, now_ms: int) -> str | None:
    """Why no call may go there now, None if one may; a probe that is due is its holder's to make."""
    match circuit.state:
        case State.CLOSED:
            return None
        case State.HALF_OPEN:
            return f"its circuit is half open and being tried ({circuit.reason})"
        case State.OPEN:
            left = max(0, circuit.until_ms - now_ms) / 1000
            return f"its circuit is open for another {left:.1f} s ({circuit.reason})"


def younger(own: Circuit, told: Circuit) -> Circuit:
    """Which of two opinions holds."""
    return told if told.changed_ms > own.changed_ms else own
