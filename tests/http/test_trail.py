"""The trail of refusals: the first few of a kind in words, the rest as a count, whatever callers do."""

from __future__ import annotations

import logging
from typing import cast

import pytest

from gateway.telemetry import Telemetry
from gateway.trail import RefusalTrail


class Counted:
    def __init__(self) -> None:
        self.codes: list[str] = []

    def refused(self, code: str) -> None:
        self.codes.append(code)


def test_a_flood_is_ten_lines_and_one_count_a_second(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="weighbridge.refusals")
    now, counted = [5.0], Counted()
    trail = RefusalTrail(cast("Telemetry", counted), lambda: now[0])
    for _ in range(250):
        trail.refused("u1", "chat", "rate_limit_exceeded")
    trail.refused("u2", "chat", "permission_denied")
    for _ in range(1000):
        trail.refused(None, None, "invalid_api_key")
    assert len(caplog.records) == 11
    now[0] = 6.0
    trail.refused("u1", "chat", "rate_limit_exceeded")
    assert "and 240 more" in caplog.records[11].getMessage()
    assert len(caplog.records) == 13
    assert len(counted.codes) == 1252
