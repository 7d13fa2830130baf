"""Calendar periods neither overlap nor leave gaps, whatever clocks do."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.windows import DAY, FOREVER_MS, HOUR, MINUTE, Calendar, Rolling, Unit, edges, parse, text_of

# Midnight skipped or repeated, half-hour changes, a day that never was, an hour's change at 00:01.
ZONES = [
    "UTC", "Europe/Berlin", "America/Sao_Paulo", "America/Havana", "Asia/Beirut", "Africa/Cairo", "Pacific/Apia",
    "Australia/Lord_Howe", "America/St_Johns", "Asia/Kathmandu", "Pacific/Kiritimati", "America/Toronto",
]  # fmt: skip
_moments = st.integers(
    int(datetime(1985, 1, 1, tzinfo=UTC).timestamp()), int(datetime(2040, 1, 1, tzinfo=UTC).timestamp())
)


def _ms(text: str, zone: str = "UTC") -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


@given(
    st.sampled_from(ZONES), st.sampled_from([Unit.DAY, Unit.WEEK, Unit.MONTH]), _moments, st.integers(0, 999)
)
def test_every_moment_is_in_one_period_and_the_next_begins_where_it_ends(
    zone: str, unit: Unit, seconds: int, ms: int
) -> None:
    calendar, at = Calendar(unit, zone), seconds * 1000 + ms
    start, end = edges(calendar, at)
    assert start <= at < end
    assert edges(calendar, start) == (start, end)
    assert edges(calendar, end - 1) == (start, end)
    following = edges(calendar, end)
    assert following[0] == end
    assert following[1] > end


@given(st.sampled_from(ZONES), _moments)
def test_a_day_begins_at_the_first_midnight_of_its_date(zone: str, seconds: int) -> None:
    start, end = edges(Calendar(Unit.DAY, zone), seconds * 1000)
    local = datetime.fromtimestamp(start / 1000, ZoneInfo(zone))
    # Where midnight is skipped the day begins later, never before.
    assert local.hour <= 1
    assert 20 * 3_600_000 <= end - start <= 49 * 3_600_000


@pytest.mark.parametrize(
    ("unit", "zone", "at", "start", "end"),
    [
        (Unit.DAY, "Europe/Berlin", "2026-03-29T12:00", "2026-03-29T00:00", "2026-03-30T00:00"),
        (Unit.DAY, "America/Sao_Paulo", "2018-11-04T12:00", "2018-11-04T01:00", "2018-11-05T00:00"),
        (Unit.WEEK, "UTC", "2026-11-24T09:00", "2026-11-23T00:00", "2026-11-30T00:00"),
        (Unit.MONTH, "Asia/Tokyo", "2026-12-31T23:59", "2026-12-01T00:00", "2027-01-01T00:00"),
        (Unit.MONTH, "UTC", "2028-02-29T00:00", "2028-02-01T00:00", "2028-03-01T00:00"),
    ],
)
def test_periods_by_the_book(unit: Unit, zone: str, at: str, start: str, end: str) -> None:
    assert edges(Calendar(unit, zone), _ms(at, zone)) == (_ms(start, zone), _ms(end, zone))


def test_a_period_once_has_no_end() -> None:
    assert edges(Calendar(Unit.ONCE), _ms("2026-11-24T00:00")) == (0, FOREVER_MS)


@pytest.mark.parametrize(
    "window", [MINUTE, HOUR, DAY, Rolling(2000), Calendar(Unit.MONTH, "America/New_York")]
)
def test_a_windows_text_reads_back(window: Rolling | Calendar) -> None:
    assert parse(text_of(window)) == window


@pytest.mark.parametrize(
    "text", ["", "minute", "rolling:x", "rolling:10", "calendar:year:UTC", "calendar:day:Mars/Base"]
)
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"window|zone"):
        parse(text)
