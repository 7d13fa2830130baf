"""Whom an overloaded worker turns away: lateness that lasts, a line that is short, and callers' shares; and what comes of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.overload import (
    AT_ONCE,
    EACH_TURN,
    FEW,
    FORGOTTEN_MS,
    LINE,
    LONGEST_STALL_MS,
    MEMORY_MS,
    PATIENCE_MS,
    Lateness,
    Level,
    begun,
    crowded,
    heavy,
    lined_up,
    overloaded,
    seen,
    stalled,
    without_line,
)

MOST = 100
LATE, TOO_LATE = MOST + 1, 2 * MOST + 1


def after(*looks: tuple[int, int]) -> Lateness:
    """(when, how late), one after the other."""
    found = Lateness()
    for now, late in looks:
        found = seen(found, now, late, MOST)
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
        found = seen(found, number * step, each, MOST)
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
    late = Lateness(0, 0, level)
    assert overloaded(late, 0, 0, FEW - 1, 4096) is Level.CALM
    assert overloaded(late, 0, 0, FEW, 4096) is level
    assert overloaded(late, 0, 0, 8, 8) is Level.FULL


@pytest.mark.parametrize(
    ("waiting", "stalled_ms", "level"),
    [
        (0, 0, 0),
        (LINE - 1, 0, 0),
        (LINE, 0, 1),
        (LINE * 5 // 4 - 1, 0, 1),
        (LINE * 5 // 4, 0, 2),
        (LINE + 99, 100, 0),
        (LINE + 100, 100, 1),
        ((LINE + 100) * 5 // 4, 100, 2),
    ],
    ids=str,
)
def test_a_line_has_an_end_and_a_quarter_more_for_those_who_have_little(
    waiting: int, stalled_ms: int, level: int
) -> None:
    assert lined_up(waiting, stalled_ms) == level
    assert overloaded(Lateness(), waiting, stalled_ms, waiting, 4096) == level


def test_a_stall_is_forgotten_little_by_little_and_a_standing_line_is_none() -> None:
    assert stalled(0, 300, standing=False) == 300
    assert stalled(0, 300, standing=True) == 0
    assert stalled(300, 40, standing=True) == 300 - FORGOTTEN_MS
    assert stalled(0, 60_000, standing=False) == LONGEST_STALL_MS
    assert stalled(FORGOTTEN_MS - 1, -20, standing=False) == 0


def test_calls_that_wait_for_an_upstream_are_not_in_line_however_many() -> None:
    for open_streams in (0, 500, 4_000):
        assert without_line(open_streams) > open_streams
    assert without_line(0) == AT_ONCE


class Loop:
    """An event loop whose turns take as long as what is done in them, on a clock of its own; times are milliseconds.

    A call costs half of itself when it is begun and half when its upstream has answered; who is refused costs a little. Half of
    capacity is offered, for a second, then `times` of it, then half again.
    """

    UPSTREAM, REFUSAL, TICK = 2.0, 0.05, 20.0

    def __init__(self, times: float, *, cost: float = 0.8, streams: float = 0.0, stall: float = 0.0) -> None:
        """Streams that are open take this share of the time; the first flood's turn may stand still."""
        self.cost, self.share = cost, streams
        capacity = (1 - streams) / cost
        phases = ((1_000, capacity / 2), (3_000, capacity * times), (4_000, capacity / 2))
        self.arrivals: list[float] = []
        at = 0.0
        for end, rate in phases:
            while at < end:
                self.arrivals.append(at)
                at += 1 / rate
        self.answers: list[tuple[float, float]] = []
        self.refused: list[float] = []
        self._run(stall)

    def _run(self, stall: float) -> None:
        now, next_arrival, looked = 0.0, 0, 0.0
        line: list[float] = []
        away: list[tuple[float, float]] = []
        crowd, stalled_ms, turning, turn = without_line(0), 0, False, 0.0
        while next_arrival < len(self.arrivals) or line or away:
            begins, work = [], 0.0
            if turning:
                count = begun(int(turn))
                begins, line = line[:count], line[count:]
                turning = len(begins) == count
            while next_arrival < len(self.arrivals) and self.arrivals[next_arrival] <= now:
                arrived = self.arrivals[next_arrival]
                next_arrival += 1
                running = len(line) + len(away) + len(begins)
                if not turning and running < crowd:
                    begins.append(arrived)
                    continue
                if not turning:
                    turning = True
                    stalled_ms = stalled(stalled_ms, int(now - looked - self.TICK), standing=False)
                if overloaded(Lateness(), len(line), stalled_ms, running, 4096) is Level.CALM:
                    line.append(arrived)
                else:
                    self.refused.append(arrived)
                    work += self.REFUSAL
            ready = [each for each in away if each[0] <= now]
            away = [each for each in away if each[0] > now]
            work += (len(begins) + len(ready)) * self.cost / 2
            if stall and now >= 500:
                work, stall = work + stall, 0.0
            turn = work / (1 - self.share) + 0.1
            now += turn
            away += [(now + self.UPSTREAM, each) for each in begins]
            self.answers += [(arrived, now - arrived) for _, arrived in ready]
            if now >= looked + self.TICK:
                late_ms = int(now - looked - self.TICK)
                looked = now
                stalled_ms = stalled(stalled_ms, late_ms, turning)
                crowd = without_line(len(line) + len(away))

    def p99(self, begins: float, ends: float) -> float:
        took = sorted(each for arrived, each in self.answers if begins <= arrived < ends)
        return took[len(took) * 99 // 100]


@pytest.mark.parametrize("streams", [0.0, 0.3], ids=["short calls", "beside streams"])
@pytest.mark.parametrize(("times", "least"), [(2, 0.8), (4, 0.6), (10, 0.3)], ids=str)
def test_whatever_is_offered_what_is_answered_is_answered_soon_and_most_of_capacity_is(
    times: float, least: float, streams: float
) -> None:
    loop = Loop(times, streams=streams)
    in_flood = [each for each in loop.answers if 1_000 <= each[0] < 3_000]
    capacity = (1 - streams) / loop.cost
    assert len(in_flood) >= least * capacity * 2_000
    # Who waits is behind a line and what was begun; the rest of the time goes into refusals.
    assert loop.p99(1_000, 3_000) <= 1.1 * (LINE + AT_ONCE) / (least * capacity)
    # Nobody before it is turned away, and who comes after it finds what the line has left, for as long as that takes.
    assert not [each for each in loop.refused if each < 1_000 or each > 3_100]
    assert loop.p99(3_300, 4_000) <= 30


@pytest.mark.parametrize("stall", [20, 100, 300, 600])
def test_a_stall_at_half_of_capacity_turns_nobody_away(stall: int) -> None:
    assert Loop(0.5, stall=stall).refused == []


@given(turn_ms=st.integers(0, 5_000))
def test_some_of_the_line_are_begun_in_each_turn_and_never_so_many_that_turns_grow(turn_ms: int) -> None:
    assert EACH_TURN <= begun(turn_ms) <= max(EACH_TURN, turn_ms / 4)


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 1000), min_size=1, max_size=30))
def test_somebody_always_has_its_share_and_nobody_with_less_than_the_mean(running: dict[str, int]) -> None:
    found = heavy(running)
    mean = sum(running.values()) / len(running)
    assert max(running, key=lambda who: running[who]) in found
    assert all((running[who] >= mean) == (who in found) for who in running)


def test_a_flood_is_heavy_and_its_neighbours_are_not() -> None:
    assert heavy({"flood": 500, "a": 1, "b": 3}) == {"flood"}
    assert heavy({}) == frozenset()
