"""What is done again and again in one process is due at the same moments."""

from __future__ import annotations

import asyncio
import os

import pytest

from engines.beats import until_beat


@pytest.mark.parametrize(
    ("now", "period", "pid", "left"),
    [
        (10.0, 0.5, 0, 0.5),
        (10.1, 0.5, 0, 0.4),
        (10.1, 1.0, 0, 0.9),
        (10.49, 0.5, 0, 0.51),
        (10.999, 1.0, 0, 1.001),
        (10.375, 0.5, 0, 0.625),
        (10.37, 0.5, 0, 0.13),
        (10.0, 0.5, 1, 0.4382),
    ],
)
async def test_the_next_beat_is_at_a_multiple_and_never_at_once(
    now: float, period: float, pid: int, left: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    monkeypatch.setattr(os, "getpid", lambda: pid)
    found = until_beat(period)
    monkeypatch.undo()
    assert found == pytest.approx(left)
