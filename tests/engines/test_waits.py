"""How long a refusal asks to be waited for: however it is said, bounded, and nothing of what says nothing."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.waits import MOST_MS, asked_wait_ms

DATE = {"date": "Thu, 26 Nov 2026 10:00:00 GMT"}


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7_000),
        ({"retry-after": " 0 "}, 0),
        ({"retry-after": "1.5"}, 1_500),
        ({"retry-after": "0.0004"}, 1),
        ({"retry-after": "99999999"}, MOST_MS),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "Thu, 26 Nov 2026 10:00:30 GMT"} | DATE, 30_000),
        ({"retry-after": "Thu, 26 Nov 2026 09:00:00 GMT"} | DATE, 0),
        ({"retry-after": "Thu, 26 Nov 2030 10:00:00 GMT"} | DATE, MOST_MS),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "1e9"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after-ms": "250", "retry-after": "1"}, 250),
        ({"retry-after-ms": "250.5"}, 251),
        ({"x-ms-retry-after-ms": "40"}, 40),
        ({"retry-after-ms": "x", "retry-after": "1"}, 1_000),
        ({"x-ratelimit-reset-requests": "120ms"}, 120),
        ({"x-ratelimit-reset-tokens": "6m0s"}, 360_000),
        ({"x-ratelimit-reset-tokens": "1h2m3.5s"}, MOST_MS),
        ({"x-ratelimit-reset-tokens": "2m59.56s"}, 179_560),
        ({"x-ratelimit-reset": "3"}, 3_000),
        ({"x-ratelimit-reset": "1795687205"} | DATE, 5_000),
        ({"x-ratelimit-reset": "1795687205000"} | DATE, 5_000),
        ({"anthropic-ratelimit-tokens-reset": "2026-11-26T10:00:12Z"} | DATE, 12_000),
        ({"ratelimit-reset": "4"}, 4_000),
        ({"x-ratelimit-reset-tokens": "tomorrow"}, None),
        ({"x-ratelimit-reset-tokens": "1.2.3s"}, None),
        ({"X-RateLimit-Reset": "3"}, 3_000),
        # Of those that are used up the last; where nothing says which is, the soonest.
        (
            {
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-requests": "9",
                "x-ratelimit-reset-tokens": "4s",
                "x-ratelimit-remaining-tokens": "0",
            },
            4_000,
        ),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "4s"}, 1_000),
        ({"x-ratelimit-reset-requests": "1s", "retry-after": "2"}, 2_000),
    ],
)
def test_a_wait_is_read_however_it_is_said(headers: dict[str, str], wait: int | None) -> None:
    assert asked_wait_ms(429, headers) == wait


def test_a_reset_is_a_wait_only_where_room_is_what_was_missing() -> None:
    reset = {"x-ratelimit-reset-requests": "3s"}
    assert (asked_wait_ms(503, reset), asked_wait_ms(500, reset)) == (3_000, None)
    assert asked_wait_ms(500, reset | {"retry-after": "1"}) == 1_000


def test_a_date_is_taken_by_this_clock_where_its_writer_does_not_tell_its_own() -> None:
    wait = asked_wait_ms(429, {"retry-after": formatdate(time.time() + 600, usegmt=True)})
    assert wait is not None
    assert 500_000 < wait <= 600_000


@given(
    st.sampled_from(
        ["retry-after", "retry-after-ms", "x-ratelimit-reset", "x-ratelimit-reset-tokens", "date"]
    ),
    st.text(st.characters(codec="latin-1"), max_size=30)
    | st.from_regex(r"[0-9.]{1,9}(ms|[smhd])", fullmatch=True),
)
def test_whatever_is_written_a_wait_is_none_or_within_its_bounds(name: str, told: str) -> None:
    wait = asked_wait_ms(429, {"retry-after": "Thu, 26 Nov 2026 10:00:30 GMT", name: told})
    assert wait is None or 0 <= wait <= MOST_MS
