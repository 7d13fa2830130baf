"""The benchmark's line in one process: its stand-ins keep up with what the line asks of them."""

from __future__ import annotations

from pathlib import Path

from bench.stages import measure


async def test_every_step_of_the_line_is_measured(tmp_path: Path) -> None:
    found = dict(await measure(tmp_path, batches=1))
    assert len(found) == 10
    assert all(microseconds > 0 for microseconds in found.values())
