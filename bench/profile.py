"""Where the worker's time goes under one cell's load, by sampling with py-spy where it is installed."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

from bench.cells import Cell
from bench.loader import Loader


def sampler() -> str | None:
    """Where py-spy is; it is no requirement: `pip install py-spy`."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


async def sample(
    pid: int, loader: Loader, cell: Cell, port: int, *, seconds: float, into: Path, native: bool = False
) -> tuple[int, list[str]]:
    """Sample the process while the cell runs against it; (calls, the report's lines). Stacks stay in `into`."""
    program = sampler()
    if program is None:
        return 0, ["py-spy is not installed: no profile (pip install py-spy)"]
    process = await asyncio.create_subprocess_exec(
        program, "record", "-p", str(pid), "-d", str(int(seconds)), "-r", "500", "-f", "raw", "-o", str(into),
        *(["--native"] if native else ["--nonblocking"]),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ},
    )  # fmt: skip
    done = await loader.run(cell, port, seconds=seconds + 1, most=10**9)
    _, told = await process.communicate()
    if process.returncode or not into.exists():
        return done["calls"], [f"py-spy failed: {told.decode()[-300:]}"]
    return done["calls"], ranked(into.read_text())


def ranked(stacks: str, rows: int = 45) -> list[str]:
    """By function: the share of samples that were in it itself, and in it or anything it called."""
    alone: Counter[str] = Counter()
    within: Counter[str] = Counter()
    total = 0
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(" ")
        number = int(count)
        names = [
            each.rpartition(":")[0] if each.rpartition(":")[2].rstrip(")").isdigit() else each
            for each in frames.split(";")
        ]
        total += number
        alone[names[-1]] += number
        for name in set(names):
            within[name] += number
    if not total:
        return ["no samples"]
    lines = [f"{total} samples", "  self   with callees  function"]
    lines += [
        f"{alone[name] / total:6.1%}  {within[name] / total:12.1%}  {name}"
        for name, _ in alone.most_common(rows)
    ]
    lines.append("-- by time with callees")
    lines += [
        f"{alone[name] / total:6.1%}  {count / total:12.1%}  {name}"
        for name, count in within.most_common(rows)
    ]
    return lines
