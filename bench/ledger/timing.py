"""How long the reports take: the package's own statements, run as the auditor, the first time included."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from gateway.reports.catalogue import report_named
from gateway.reports.reading import ask, auditor

RUNS = 3


@dataclass(frozen=True, slots=True)
class Question:
    """A report over a period that ends with the last whole day."""

    what: str
    report: str
    days: int
    asked_seconds: float | None = None
    """What is asked of it; None: only told."""


QUESTIONS = (
    Question("usage of a day", "usage-by-day", 1, 1.0),
    Question("who spent most in a day", "spend-by-principal", 1, 1.0),
    Question("a month per charged group", "group-costs", 30, 3.0),
    Question("a month per endpoint", "spend-by-endpoint", 30),
    Question("usage of 90 days, day by day", "usage-by-day", 90),
    Question("a day hour by hour", "usage-by-hour", 1),
    Question("slowest endpoints of a day, from the rows", "slowest-endpoints", 1),
)


@dataclass(frozen=True, slots=True)
class Timed:
    """How long it took."""

    question: Question
    first: float
    best: float
    cpu: float
    """Of the server's process, at best: what it would take on a machine that does nothing else."""
    rows: int

    @property
    def held(self) -> bool:
        """Whether it was as fast as asked, the first time too."""
        return self.question.asked_seconds is None or self.first < self.question.asked_seconds


async def timed(url: str, question: Question, end: datetime) -> Timed:
    """Run it some times; each on a connection of its own, as a person would."""
    chosen = report_named(question.report)
    known = {"from": end - timedelta(days=question.days), "to": end, "group": None}
    taken: list[float] = []
    spent: list[float] = []
    rows = 0
    for _ in range(RUNS):
        async with auditor(url) as connection:
            before, began = cpu_of(connection.get_server_pid()), time.monotonic()
            answer = await ask(connection, chosen.statement, *(known[each] for each in chosen.parameters))
            taken.append(time.monotonic() - began)
            spent.append(cpu_of(connection.get_server_pid()) - before)
            rows = len(answer.rows)
    return Timed(question, taken[0], min(taken), min(spent), rows)


def cpu_of(pid: int) -> float:
    """Seconds of processor time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
