"""Spans over which a limit or a budget counts: sliding windows, and calendar periods in a time zone.

Calendar periods are cut by instants, never by wall-clock dates, so they neither overlap nor leave a gap when
clocks change, whatever the zone does at midnight.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

SUB_BUCKETS = 60
"""A sliding window is cut into this many; one more than these is kept, so that at least the window is covered."""
FOREVER_MS = 253_402_300_799_000
"""End of a period that never ends (the year 9999)."""
_SHORTEST_MS, _LONGEST_MS = 1_000, 86_400_000


class Unit(StrEnum):
    """Calendar periods; `once` is a single period without an end."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    ONCE = "once"


@dataclass(frozen=True, slots=True)
class Rolling:
    """A window that slides: what was charged counts for at least `milliseconds`, and at most 1/60 longer."""

    milliseconds: int

    def __post_init__(self) -> None:
        if not _SHORTEST_MS <= self.milliseconds <= _LONGEST_MS:
            raise ValueError(f"a sliding window takes 1 second to 1 day, not {self.milliseconds} ms")

    @property
    def words(self) -> str:
        """The window in a sentence: `minute`, `2 seconds`."""
        named = {1_000: "second", 60_000: "minute", 3_600_000: "hour", 86_400_000: "day"}.get(
            self.milliseconds
        )
        return named or f"{self.milliseconds / 1000:g} seconds"


@dataclass(frozen=True, slots=True)
class Calendar:
    """A period of the calendar in an IANA time zone; weeks begin on Monday."""

    unit: Unit
    zone: str = "UTC"

    def __post_init__(self) -> None:
        _zone(self.zone)

    @property
    def words(self) -> str:
        """The period in a sentence: `calendar month in Europe/Berlin`."""
        return "all time" if self.unit is Unit.ONCE else f"calendar {self.unit.value} in {self.zone}"


Window = Rolling | Calendar

SECOND, MINUTE, HOUR, DAY = Rolling(1_000), Rolling(60_000), Rolling(3_600_000), Rolling(86_400_000)


def edges(calendar: Calendar, at_ms: int) -> tuple[int, int]:
    """Start and end, in Unix ms, of the period that contains `at_ms`: start <= at < end."""
    if calendar.unit is Unit.ONCE:
        return 0, FOREVER_MS
    zone = _zone(calendar.zone)
    day = datetime.fromtimestamp(at_ms / 1000, zone).date()
    first = _first_day(calendar.unit, day)
    start, end = _instant(first, zone), 0
    while True:
        following = _following(calendar.unit, first)
        end = _instant(following, zone)
        # Where clocks fall back across midnight, or a zone skips a day, the wall-clock date lags behind the instant.
        if end > at_ms:
            return start, end
        first, start = following, end


def parse(text: str) -> Window:
    """The window that `text_of` wrote; raises ValueError for anything else."""
    match text.split(":"):
        case ["rolling", ms] if ms.isdecimal():
            return Rolling(int(ms))
        case ["calendar", unit, zone] if unit in tuple(Unit):
            return Calendar(Unit(unit), zone)
        case _:
            raise ValueError(
                f"{text!r} is no window; it is rolling:<ms> or calendar:<day|week|month|once>:<zone>"
            )


def text_of(window: Window) -> str:
    """A window as a short text for storage: `rolling:60000`, `calendar:month:Europe/Berlin`."""
    if isinstance(window, Rolling):
        return f"rolling:{window.milliseconds}"
    return f"calendar:{window.unit.value}:{window.zone}"


def _first_day(unit: Unit, day: date) -> date:
    if unit is Unit.WEEK:
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if unit is Unit.MONTH else day


def _following(unit: Unit, first: date) -> date:
    if unit is Unit.MONTH:
        return date(first.year + first.month // 12, first.month % 12 + 1, 1)
    return first + timedelta(days=7 if unit is Unit.WEEK else 1)


def _instant(day: date, zone: tzinfo) -> int:
    # fold=0: the first of two midnights, and the moment of the change where there is none.
    return round(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp() * 1000)


@lru_cache(maxsize=256)
def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(
            f"{name!r} is no IANA time zone; it is a name such as Europe/Berlin or UTC"
        ) from error
