"""What `--from` and `--to` mean: dates and moments in UTC, the end not included, whole days where a report sums days."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from gateway.reports.catalogue import Grain

_MONTH = re.compile(r"(\d{4})-(\d{2})")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_TAKES = (
    "a date (2026-11-25), a month (2026-11) or a moment (2026-11-25T12:00Z), in UTC unless it says otherwise"
)


class BadPeriod(ValueError):
    """A period that cannot be meant; the text says what is taken."""


@dataclass(frozen=True, slots=True)
class Period:
    """From the start up to, not including, the end."""

    start: datetime
    end: datetime


def period(
    since: str | None, until: str | None, *, now: datetime, span_days: int, grain: Grain = "moment"
) -> Period:
    """Read both ends; what is left out follows from the other, or from now. Raises BadPeriod.

    A date or a month as the end means up to the end of it: `--from 2026-11-01 --to 2026-11-30` is all of November.
    """
    end = _rounded_up(now, grain) if until is None else _moment(until, "--to", ends=True)
    start = end - timedelta(days=span_days) if since is None else _moment(since, "--from", ends=False)
    if start >= end:
        raise BadPeriod(f"The period ends ({_shown(end)}) before it begins ({_shown(start)}).")
    for name, edge in (("--from", start), ("--to", end)):
        if edge != _rounded_up(edge, grain):
            raise BadPeriod(f"This report sums whole {grain}s (UTC): {name} {_shown(edge)} lies within one.")
    return Period(start, end)


def _moment(text: str, name: str, *, ends: bool) -> datetime:
    try:
        month = _MONTH.fullmatch(text)
        if month is not None:
            year, number = int(month[1]), int(month[2])
            first = datetime(year, number, 1, tzinfo=UTC)
            return (first + timedelta(days=31)).replace(day=1) if ends else first
        found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            found = found.replace(tzinfo=UTC)
        found = found.astimezone(UTC)
        return found + timedelta(days=1) if ends and _DATE.fullmatch(text) else found
    except (ValueError, OverflowError) as error:
        raise BadPeriod(f"{name} {text!r} is no moment; it takes {_TAKES}.") from error


def _rounded_up(moment: datetime, grain: Grain) -> datetime:
    if grain == "moment":
        return moment
    floor = moment.replace(minute=0, second=0, microsecond=0)
    if grain == "day":
        floor = floor.replace(hour=0)
    return floor if floor == moment else floor + (timedelta(days=1) if grain == "day" else timedelta(hours=1))


def _shown(moment: datetime) -> str:
    return moment.isoformat(timespec="minutes").replace("+00:00", "Z")
