"""How long an upstream that refused asks to be left alone, in whichever way it says so, in milliseconds.

Bounded: an upstream's word closes no way to it for more than an hour. What says nothing is as if it was not there.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MOST_MS = 3_600_000
_IN_MS = ("retry-after-ms", "x-ms-retry-after-ms")
"""OpenAI's and Azure's words, finer than the standard's: SDKs go by them first."""
_RESET = re.compile(r"(?:x-|anthropic-)?ratelimit-(?:(\w+)-reset|reset(?:-(\w+))?)").fullmatch
_REFUSED_FOR_NOW = (429, 503)
_number = re.compile(r"[0-9]{1,15}(?:\.[0-9]{0,15})?").fullmatch
_spans = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{0,9})?(?:ms|[dhms]))+").fullmatch
_span = re.compile(r"([0-9.]+)(ms|[dhms])").findall
_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_AN_EPOCH = 1_000_000_000
"""Seconds from here on are a moment since 1970, and a thousand times as much is one in milliseconds."""


def asked_wait_ms(status: int, headers: Mapping[str, str]) -> int | None:
    """The wait that a refusal's headers ask for, rounded up; None where they ask for none."""
    for name in _IN_MS:
        if _number(told := headers.get(name, "").strip()):
            return _bounded(float(told))
    if told := headers.get("retry-after", "").strip():
        wait = 1_000 * float(told) if _number(told) else _until(told, headers)
        if wait is not None:
            return _bounded(wait)
    return _reset(headers) if status in _REFUSED_FOR_NOW else None


def _reset(headers: Mapping[str, str]) -> int | None:
    """When what is used up is there again, for those who tell only that; the soonest where they do not say what is."""
    waits: list[float] = []
    used_up: list[float] = []
    for name, told in headers.items():
        found = _RESET(name.lower())
        if found is None or (wait := _until_reset(told.strip(), headers)) is None:
            continue
        waits.append(wait)
        if _is_used_up(name, headers):
            used_up.append(wait)
    return _bounded(max(used_up)) if used_up else _bounded(min(waits)) if waits else None


def _is_used_up(name: str, headers: Mapping[str, str]) -> bool:
    return headers.get(name.lower().replace("reset", "remaining"), "").strip() == "0"


def _until_reset(told: str, headers: Mapping[str, str]) -> float | None:
    """Milliseconds of "1.5" (seconds), "6m0s", "120ms", a moment since 1970, or a date."""
    if _number(told):
        seconds = float(told)
        if seconds < _AN_EPOCH:
            return 1_000 * seconds
        moment = seconds if seconds < 1_000 * _AN_EPOCH else seconds / 1_000
        return 1_000 * (moment - _now(headers))
    if _spans(told):
        try:
            return sum(float(number) * _UNITS[unit] for number, unit in _span(told))
        except ValueError:
            return None
    return _until(told, headers)


def _until(date: str, headers: Mapping[str, str]) -> float | None:
    """Milliseconds until a date as HTTP or RFC 3339 writes it, by the clock of who wrote it."""
    moment = _moment(date)
    return None if moment is None else 1_000 * (moment - _now(headers))


def _now(headers: Mapping[str, str]) -> float:
    told = _moment(headers.get("date", ""))
    return time.time() if told is None else told


def _moment(date: str) -> float | None:
    try:
        read = parsedate_to_datetime(date) if "," in date else datetime.fromisoformat(date)
        return (read if read.tzinfo is not None else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, IndexError):
        return None


def _bounded(wait_ms: float) -> int:
    return max(0, min(MOST_MS, math.ceil(wait_ms)))
